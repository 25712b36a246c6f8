package compat

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// compare runs one call on both and wants equal replies, and the peer's to have that code.
func (p *pair) compare(t *testing.T, why string, want codes.Code, run func(*server) reply) {
	t.Helper()
	peer, subject := together(p, run)
	if peer.code != want {
		t.Errorf("%s: the peer itself answers %v", why, peer)
	}
	if !equal(peer, subject) {
		t.Errorf("%s\n etcd %v\nraftd %v", why, peer, subject)
	}
}

func TestUnknownMethods(t *testing.T) {
	p := newPair(t)
	for _, method := range []string{"/etcdserverpb.KV/Nothing", "/etcdserverpb.Nothing/Range",
		"/nothing/at.all", "/etcdserverpb.KV/range", "/etcdserverpb.KV/Range/more", "/v3lockpb.Lock/Range",
		"/v3electionpb.Election/Nothing", "/grpc.health.v1.Health/Nothing"} {
		p.compare(t, method, codes.Unimplemented, func(s *server) reply {
			response := &pb.RangeResponse{}
			return settle(response, s.Conn.Invoke(t.Context(), method, get("a"), response))
		})
	}
	p.run(t, []step{{"the connection still works", all(), nil}})
}

func TestHealthService(t *testing.T) {
	p := newPair(t)
	check := func(service string) func(*server) reply {
		return func(s *server) reply {
			r, err := healthpb.NewHealthClient(s.Conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			return settle(r, err)
		}
	}
	p.compare(t, "the server as a whole", codes.OK, check(""))
	p.compare(t, "a service nobody registered", codes.NotFound, check("nothing"))
	p.compare(t, "watch gives the state at once", codes.OK, func(s *server) reply {
		stream, err := healthpb.NewHealthClient(s.Conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
		if err != nil {
			return settle(nil, err)
		}
		r, err := stream.Recv()
		return settle(r, err)
	})
}

func TestCallOptions(t *testing.T) {
	p := newPair(t)
	header := func(pairs ...string) func(*server) reply {
		return func(s *server) reply {
			return callWith(metadata.AppendToOutgoingContext(t.Context(), pairs...), s, get("a"))
		}
	}
	// Clients send nothing compressed, but etcd 3.7 carries grpc-go's gzip.
	p.compare(t, "a compressed request", codes.OK, func(s *server) reply {
		return callWith(t.Context(), s, put("a", "1"), grpc.UseCompressor(gzip.Name))
	})
	p.compare(t, "hasleader with a leader", codes.OK, header("hasleader", "true"))
	p.compare(t, "client-api-version", codes.OK, header("client-api-version", "3.7"))
	p.compare(t, "a token while auth is off", codes.OK, header("token", "nonsense"))
	p.compare(t, "unknown metadata", codes.OK, header("x-something", strings.Repeat("y", 3000), "z-bin", "\x00\x01"))
	for name, size := range map[string]int{"above the receive limit": 3 << 20, "far above it": 40 << 20} {
		p.compare(t, name, codes.ResourceExhausted, func(s *server) reply {
			return call(s, put("a", strings.Repeat("v", size)))
		})
	}
	p.compare(t, "between request limit and receive limit", codes.InvalidArgument, func(s *server) reply {
		return call(s, put("a", strings.Repeat("v", 1600000)))
	})
	p.compare(t, "a value that fills many frames", codes.OK, func(s *server) reply {
		return call(s, put("large", strings.Repeat("v", 1500000)))
	})
	p.compare(t, "and comes back", codes.OK, func(s *server) reply { return call(s, get("large")) })
	p.compare(t, "many at a time on one connection", codes.OK, func(s *server) reply {
		failed := make(chan error, 64)
		for range cap(failed) {
			go func() {
				_, err := pb.NewKVClient(s.Conn).Range(context.Background(), get("large"))
				failed <- err
			}()
		}
		for range cap(failed) {
			if err := <-failed; err != nil {
				return settle(nil, err)
			}
		}
		return call(s, all())
	})
}

// raw is one HTTP/2 exchange below gRPC: what a client library would never send.
type raw struct {
	why     string
	headers []string // changes of the defaults; an empty value removes one
	body    []byte
	frames  int // the body is cut into that many DATA frames; 0 is 1
	// What must come back. Codes are those of gRPC, -1 where only the HTTP status matters.
	status string
	code   string
	loose  bool // any error will do: the text is grpc-go's own
}

func message(flag byte, m proto.Message) []byte {
	payload, _ := proto.Marshal(m)
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(payload))), payload...)
}

// exchange sends one request and gathers the last value of every header that comes back.
func exchange(s *server, c raw) (map[string]string, error) {
	conn, err := net.Dial("tcp", s.Client)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		return nil, err
	}
	fields := []string{":method", "POST", ":scheme", "http", ":path", "/etcdserverpb.KV/Range",
		":authority", "example", "content-type", "application/grpc", "te", "trailers"}
	fields = append(fields, c.headers...)
	values := map[string]string{}
	for i := 0; i < len(fields); i += 2 {
		values[fields[i]] = fields[i+1]
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		if value := values[fields[i]]; value != "" {
			_ = encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: value})
			delete(values, fields[i])
		}
	}
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		return nil, err
	}
	frames := max(c.frames, 1)
	for i := range frames {
		part := c.body[len(c.body)*i/frames : len(c.body)*(i+1)/frames]
		if err := framer.WriteData(1, i == frames-1, part); err != nil {
			return nil, err
		}
	}
	got := map[string]string{}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return got, err
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = framer.WritePing(true, f.Data)
			}
		case *http2.MetaHeadersFrame:
			for _, field := range f.Fields {
				got[field.Name] = field.Value
			}
			if f.StreamEnded() {
				return got, nil
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return got, nil
			}
		case *http2.RSTStreamFrame:
			got["reset"] = f.ErrCode.String()
			return got, nil
		case *http2.GoAwayFrame:
			got["goaway"] = f.ErrCode.String()
			return got, nil
		}
	}
}

func TestRawFrames(t *testing.T) {
	p := newPair(t)
	good := message(0, get("a"))
	for _, c := range []raw{
		{why: "a plain call", body: good, status: "200", code: "0"},
		{why: "many small DATA frames", body: good, frames: 7, status: "200", code: "0"},
		{why: "content-type with a suffix", headers: []string{"content-type", "application/grpc+proto"}, body: good, status: "200", code: "0"},
		{why: "a deadline that has passed", headers: []string{"grpc-timeout", "1n"}, body: good, status: "200", code: "4", loose: true},
		{why: "a deadline far away", headers: []string{"grpc-timeout", "99999999H"}, body: good, status: "200", code: "0"},
		{why: "a malformed deadline", headers: []string{"grpc-timeout", "12x"}, body: good, loose: true},
		{why: "compressed flag without an encoding", body: message(1, get("a")), status: "200", code: "13", loose: true},
		{why: "an encoding nobody knows", headers: []string{"grpc-encoding", "snappy"}, body: message(1, get("a")), status: "200", code: "12"},
		{why: "identity encoding", headers: []string{"grpc-encoding", "identity"}, body: good, status: "200", code: "0"},
		{why: "no message at all", body: nil, loose: true},
		{why: "half a message", body: good[:len(good)-1], loose: true},
		{why: "half a prefix", body: good[:3], loose: true},
		{why: "two messages for a unary call", body: append(append([]byte{}, good...), good...), status: "200", code: "0"},
		{why: "not protobuf", body: []byte{0, 0, 0, 0, 3, 0xff, 0xff, 0xff}, status: "200", code: "13", loose: true},
		{why: "a length beyond the limit", body: []byte{0, 0x7f, 0xff, 0xff, 0xff, 1}, status: "200", code: "8"},
		{why: "an unknown path", headers: []string{":path", "/nothing"}, body: good, status: "200", code: "12"},
		{why: "no content-type", headers: []string{"content-type", ""}, body: good, loose: true},
		{why: "another content-type", headers: []string{"content-type", "text/plain"}, body: good, loose: true},
		{why: "GET", headers: []string{":method", "GET"}, body: good, loose: true},
		{why: "a limit as a ten byte varint", body: message(0, &pb.RangeRequest{Key: []byte("a"), Limit: -1}), status: "200", code: "0"},
		{why: "unknown fields of every wire type", body: message(0, withUnknown(get("a"))), status: "200", code: "0"},
	} {
		type result struct {
			got map[string]string
			err error
		}
		peer, subject := together(p, func(s *server) result {
			got, err := exchange(s, c)
			return result{got, err}
		})
		if peer.err != nil && !c.loose {
			t.Errorf("%s: the peer itself: %v", c.why, peer.err)
		}
		names := []string{":status", "content-type", "grpc-status", "grpc-message", "reset", "goaway"}
		if c.loose {
			// Any refusal will do; where the code is part of the contract it has to be that one.
			ok := subject.err != nil || subject.got["grpc-status"] != "0"
			if c.code != "" && subject.got["grpc-status"] != c.code {
				ok = false
			}
			if !ok {
				t.Errorf("%s\n etcd %v %v\nraftd %v %v", c.why, peer.got, peer.err, subject.got, subject.err)
			}
			continue
		}
		if peer.got[":status"] != c.status || peer.got["grpc-status"] != c.code {
			t.Errorf("%s: the peer itself answers %v", c.why, peer.got)
		}
		for _, name := range names {
			if peer.got[name] != subject.got[name] {
				t.Errorf("%s: %s\n etcd %q\nraftd %q %v", c.why, name, peer.got[name], subject.got[name], subject.err)
			}
		}
	}
	p.run(t, []step{{"both still serve", put("a", "1"), nil}, {"", all(), nil}})
}

// Garbage may close that connection, and nothing else.
func TestGarbage(t *testing.T) {
	p := newPair(t)
	for _, bytes := range []string{"\x00\x01\x02\x03garbage that is no protocol at all\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x01x"} {
		for _, s := range p.both() {
			conn, err := net.Dial("tcp", s.Client)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, bytes)
			_ = conn.SetReadDeadline(time.Now().Add(time.Second / 2))
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}
	p.run(t, []step{{"both still serve", put("a", "1"), nil}, {"", all(), nil}})
}

func TestHeadersOfOneMember(t *testing.T) {
	p := newPair(t)
	for _, s := range p.both() {
		var first *pb.ResponseHeader
		for _, request := range []proto.Message{get("a"), put("a", "1"), del("a", ""), then(put("b", "1")), compact(1)} {
			r := invoke(t.Context(), s, request)
			if r.code != codes.OK {
				t.Fatalf("%s: %T: %v", s.name, request, r)
			}
			header := r.message.(interface{ GetHeader() *pb.ResponseHeader }).GetHeader()
			if first == nil {
				first = header
			}
			if header.ClusterId != first.ClusterId || header.MemberId != first.MemberId ||
				header.RaftTerm != first.RaftTerm || header.ClusterId == 0 || header.MemberId == 0 || header.RaftTerm == 0 {
				t.Errorf("%s: %T: header %v after %v", s.name, request, header, first)
			}
		}
		members, err := pb.NewClusterClient(s.Conn).MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true})
		if err != nil || len(members.Members) != 1 || members.Members[0].ID != first.MemberId ||
			members.Header.Revision != 0 || fmt.Sprint(members.Members[0].ClientURLs) != "[http://"+s.Client+"]" {
			t.Errorf("%s: members %v %v", s.name, members, err)
		}
		status, err := pb.NewMaintenanceClient(s.Conn).Status(t.Context(), &pb.StatusRequest{})
		if err != nil || status.Leader != first.MemberId || status.RaftTerm != first.RaftTerm || status.Version == "" ||
			status.DbSize < status.DbSizeInUse || status.RaftAppliedIndex > status.RaftIndex || status.RaftAppliedIndex == 0 {
			t.Errorf("%s: status %v %v", s.name, status, err)
		}
	}
}
