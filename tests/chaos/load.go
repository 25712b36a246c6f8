package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"raft/tests/harness"
)

const (
	keyCount      = 400
	bytesPerRound = 96 << 20 // less than recycling a log segment within the round takes
	grpcConns     = 3
	nativeConns   = 3
	perConn       = 6
)

// kv is what both protocols offer to a writer.
type kv interface {
	Put(context.Context, *pb.PutRequest) (*pb.PutResponse, error)
	DeleteRange(context.Context, *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error)
	Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error)
	Compact(context.Context, *pb.CompactionRequest) (*pb.CompactionResponse, error)
}

type grpcKV struct{ client pb.KVClient }

func (g grpcKV) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	return g.client.Put(ctx, r)
}

func (g grpcKV) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	return g.client.DeleteRange(ctx, r)
}

func (g grpcKV) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	return g.client.Txn(ctx, r)
}

func (g grpcKV) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return g.client.Compact(ctx, r)
}

// fingerprint tells requests apart; puts carry unique values, so equal ones are interchangeable.
func fingerprint(request proto.Message) string {
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(request)
	if err != nil {
		panic(err)
	}
	return string(request.ProtoReflect().Descriptor().Name()) + string(bytes)
}

// outcome is what the writers of a round know at its end.
type outcome struct {
	mutex     sync.Mutex
	acked     map[int64]string // by the revision that the reply named; only what made a revision
	unknown   map[string]int   // sent, and no answer that says what happened
	compacted atomic.Int64     // highest acknowledged
	count     int
	failures  map[string]int
}

func newOutcome() *outcome {
	return &outcome{acked: map[int64]string{}, unknown: map[string]int{}, failures: map[string]int{}}
}

// note records an answer. Two acknowledgements of one revision cannot both be true.
func (o *outcome) note(request proto.Message, revision int64, effective bool, err error) error {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	o.count++
	if err != nil {
		o.unknown[fingerprint(request)]++
		text := err.Error()
		o.failures[text[:min(len(text), 60)]]++
		return nil
	}
	if !effective {
		return nil
	}
	if _, taken := o.acked[revision]; taken {
		return fmt.Errorf("revision %d was acknowledged twice", revision)
	}
	o.acked[revision] = fingerprint(request)
	return nil
}

type load struct {
	target  *server
	outcome *outcome
	bytes   atomic.Int64
	latest  *atomic.Int64 // highest revision seen
	serial  *atomic.Int64 // makes values unique across rounds
	errs    chan error
}

type writer struct {
	load     *load
	kv       kv
	random   *rand.Rand
	compacts bool
}

func (w *writer) key() []byte {
	return fmt.Appendf(nil, "key/%03d", w.random.IntN(keyCount))
}

func (w *writer) value() []byte {
	size := 0
	switch n := w.random.IntN(100); {
	case n < 70:
		size = w.random.IntN(2000)
	case n < 97:
		size = 4000 + w.random.IntN(12000)
	default: // more than one log block takes
		size = 60000 + w.random.IntN(500000)
	}
	value := fmt.Appendf(nil, "%d:", w.load.serial.Add(1))
	fill := make([]byte, size)
	for i := 0; i < len(fill); i += 8 {
		word := w.random.Uint64() >> (w.random.IntN(4) * 8) // some of it compresses
		for j := i; j < min(i+8, len(fill)); j++ {
			fill[j] = byte(word >> (8 * (j - i)))
		}
	}
	w.load.bytes.Add(int64(size) + 100)
	return append(value, fill...)
}

func (w *writer) putRequest() *pb.PutRequest {
	return &pb.PutRequest{Key: w.key(), Value: w.value(), PrevKv: w.random.IntN(10) == 0}
}

func (w *writer) deleteRequest() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{Key: w.key(), PrevKv: w.random.IntN(10) == 0}
	if w.random.IntN(5) == 0 {
		r.RangeEnd = fmt.Appendf(nil, "%s0", r.Key[:len(r.Key)-1]) // at most ten keys
	}
	return r
}

func (w *writer) compare() *pb.Compare {
	c := &pb.Compare{Key: w.key(), Result: pb.Compare_CompareResult(w.random.IntN(4))}
	switch w.random.IntN(4) {
	case 0:
		c.Target = pb.Compare_VERSION
		c.TargetUnion = &pb.Compare_Version{Version: w.random.Int64N(3)}
	case 1:
		c.Target = pb.Compare_CREATE
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: w.load.latest.Load() - w.random.Int64N(2000)}
	case 2:
		c.Target = pb.Compare_MOD
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: w.load.latest.Load() - w.random.Int64N(800)}
	default:
		c.Target = pb.Compare_VALUE
		c.TargetUnion = &pb.Compare_Value{Value: []byte(fmt.Sprint(w.random.IntN(10)))}
	}
	return c
}

// branch uses each key once: a transaction that writes one twice would be refused.
func (w *writer) branch(used map[string]bool, depth int) []*pb.RequestOp {
	var ops []*pb.RequestOp
	for range w.random.IntN(4) {
		key := w.key()
		if used[string(key)] {
			continue
		}
		used[string(key)] = true
		switch n := w.random.IntN(10); {
		case n < 5:
			put := w.putRequest()
			put.Key = key
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		case n < 8:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
				RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}})
		case n < 9 || depth == 0:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
				RequestRange: &pb.RangeRequest{Key: key}}})
		default:
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{
				RequestTxn: &pb.TxnRequest{Compare: []*pb.Compare{w.compare()},
					Success: w.branch(used, depth-1), Failure: w.branch(used, depth-1)}}})
		}
	}
	return ops
}

func (w *writer) txnRequest() *pb.TxnRequest {
	used := map[string]bool{}
	r := &pb.TxnRequest{Success: w.branch(used, 1), Failure: w.branch(used, 1)}
	for range w.random.IntN(3) {
		r.Compare = append(r.Compare, w.compare())
	}
	return r
}

// wrote tells whether a transaction's reply shows a change.
func wrote(r *pb.TxnResponse) bool {
	for _, response := range r.GetResponses() {
		if response.GetResponsePut() != nil || response.GetResponseDeleteRange().GetDeleted() > 0 ||
			wrote(response.GetResponseTxn()) {
			return true
		}
	}
	return false
}

func (w *writer) seen(header *pb.ResponseHeader) int64 {
	revision := header.GetRevision()
	for {
		latest := w.load.latest.Load()
		if revision <= latest || w.load.latest.CompareAndSwap(latest, revision) {
			return revision
		}
	}
}

// step sends one request. A failed one ends the writer: the server is gone, or about to be.
func (w *writer) step(ctx context.Context) (bool, error) {
	note := w.load.outcome.note
	switch n := w.random.IntN(100); {
	case n < 60:
		r := w.putRequest()
		reply, err := w.kv.Put(ctx, r)
		return err == nil, note(r, w.seen(reply.GetHeader()), true, err)
	case n < 75:
		r := w.deleteRequest()
		reply, err := w.kv.DeleteRange(ctx, r)
		return err == nil, note(r, w.seen(reply.GetHeader()), reply.GetDeleted() > 0, err)
	case n < 98 || !w.compacts:
		r := w.txnRequest()
		reply, err := w.kv.Txn(ctx, r)
		return err == nil, note(r, w.seen(reply.GetHeader()), wrote(reply), err)
	default:
		r := &pb.CompactionRequest{Revision: w.load.latest.Load() - w.random.Int64N(400),
			Physical: w.random.IntN(8) == 0}
		if r.Revision <= w.load.outcome.compacted.Load() {
			return true, nil
		}
		_, err := w.kv.Compact(ctx, r)
		for before := w.load.outcome.compacted.Load(); err == nil && r.Revision > before; {
			if w.load.outcome.compacted.CompareAndSwap(before, r.Revision) {
				break
			}
			before = w.load.outcome.compacted.Load()
		}
		return err == nil || status.Code(err) == codes.OutOfRange, nil
	}
}

func (w *writer) run(ctx context.Context, group *sync.WaitGroup) {
	defer group.Done()
	for ctx.Err() == nil && w.load.bytes.Load() < bytesPerRound {
		alive, err := w.step(ctx)
		if err != nil {
			w.load.errs <- err
		}
		if !alive || err != nil {
			return
		}
	}
}

// run writes until stop is called, which kills the server and waits for the writers to notice.
func (l *load) run(random *rand.Rand, kill func()) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients []kv
	for range grpcConns {
		conn, err := grpc.NewClient(l.target.Client, harness.DialOptions()...)
		if err != nil {
			return err
		}
		defer conn.Close()
		clients = append(clients, grpcKV{pb.NewKVClient(conn)})
	}
	for range nativeConns {
		conn, err := dialNative(l.target.Client)
		if err != nil {
			return err
		}
		defer conn.close()
		clients = append(clients, conn)
	}
	var group sync.WaitGroup
	for i, client := range clients {
		for j := range perConn {
			w := &writer{load: l, kv: client, compacts: j == 0 && i%grpcConns == 0,
				random: rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))}
			group.Add(1)
			go w.run(ctx, &group)
		}
	}
	kill()
	timer := time.AfterFunc(5*time.Minute, cancel) // no writer may hang on a dead server
	group.Wait()
	if !timer.Stop() {
		return fmt.Errorf("writers hung for 5 minutes after the kill")
	}
	select {
	case err := <-l.errs:
		return err
	default:
		return nil
	}
}
