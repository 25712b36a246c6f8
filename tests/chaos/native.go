package chaos

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// native is a pipelined client of docs/formats/native-frame.md, as much as writers need.
type native struct {
	conn  net.Conn
	mutex sync.Mutex
	next  uint64
	calls map[uint64]chan frame
	ended error
}

type frame struct {
	flags   byte
	payload []byte
	err     error
}

const (
	frameMagic  = 0x544652f5
	frameHeader = 32
	flagError   = 2
	flagPart    = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func dialNative(address string) (*native, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	n := &native{conn: conn, calls: map[uint64]chan frame{}}
	go n.read()
	return n, nil
}

func (n *native) close() { n.conn.Close() }

func (n *native) fail(err error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.ended = err
	for id, call := range n.calls {
		call <- frame{err: err}
		delete(n.calls, id)
	}
	n.conn.Close()
}

func (n *native) read() {
	from := bufio.NewReaderSize(n.conn, 1<<16)
	parts := map[uint64][]byte{}
	for {
		header := make([]byte, frameHeader)
		if _, err := io.ReadFull(from, header); err != nil {
			n.fail(err)
			return
		}
		payload := make([]byte, binary.LittleEndian.Uint32(header[8:]))
		if _, err := io.ReadFull(from, payload); err != nil {
			n.fail(err)
			return
		}
		sum := crc32.Update(crc32.Checksum(header[:28], castagnoli), castagnoli, payload)
		if binary.LittleEndian.Uint32(header) != frameMagic ||
			binary.LittleEndian.Uint32(header[28:]) != sum {
			n.fail(errors.New("a frame of the server does not verify"))
			return
		}
		id := binary.LittleEndian.Uint64(header[16:])
		flags := header[5]
		payload = append(parts[id], payload...)
		if flags&flagPart != 0 {
			parts[id] = payload
			continue
		}
		delete(parts, id)
		n.mutex.Lock()
		call := n.calls[id]
		delete(n.calls, id)
		n.mutex.Unlock()
		if call != nil {
			call <- frame{flags: flags, payload: payload}
		}
	}
}

// refusal makes the gRPC error that the same call would have had of a raftpb.Error.
func refusal(payload []byte) error {
	code, text := codes.Unknown, ""
	for len(payload) > 0 {
		number, kind, used := protowire.ConsumeTag(payload)
		if used < 0 {
			return protowire.ParseError(used)
		}
		payload = payload[used:]
		value := protowire.ConsumeFieldValue(number, kind, payload)
		if value < 0 {
			return protowire.ParseError(value)
		}
		switch number {
		case 3:
			bytes, _ := protowire.ConsumeBytes(payload)
			text = string(bytes)
		case 4:
			varint, _ := protowire.ConsumeVarint(payload)
			code = codes.Code(varint)
		}
		payload = payload[value:]
	}
	return status.Error(code, text)
}

func (n *native) call(ctx context.Context, method uint16, request, reply proto.Message) error {
	body, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	out := make([]byte, frameHeader, frameHeader+len(body))
	binary.LittleEndian.PutUint32(out, frameMagic)
	out[4] = 1
	binary.LittleEndian.PutUint16(out[6:], method)
	binary.LittleEndian.PutUint32(out[8:], uint32(len(body)))
	done := make(chan frame, 1)
	n.mutex.Lock()
	if n.ended != nil {
		n.mutex.Unlock()
		return n.ended
	}
	n.next++
	id := n.next
	n.calls[id] = done
	binary.LittleEndian.PutUint64(out[16:], id)
	sum := crc32.Update(crc32.Checksum(out[:28], castagnoli), castagnoli, body)
	binary.LittleEndian.PutUint32(out[28:], sum)
	_, err = n.conn.Write(append(out, body...))
	n.mutex.Unlock()
	if err != nil {
		return err
	}
	select {
	case answer := <-done:
		if answer.err != nil {
			return answer.err
		}
		if answer.flags&flagError != 0 {
			return refusal(answer.payload)
		}
		return proto.Unmarshal(answer.payload, reply)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *native) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	reply := &pb.PutResponse{}
	return reply, n.call(ctx, 1, r, reply)
}

func (n *native) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	reply := &pb.DeleteRangeResponse{}
	return reply, n.call(ctx, 3, r, reply)
}

func (n *native) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	reply := &pb.TxnResponse{}
	return reply, n.call(ctx, 4, r, reply)
}

func (n *native) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	reply := &pb.CompactionResponse{}
	return reply, n.call(ctx, 5, r, reply)
}
