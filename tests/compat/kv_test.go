package compat

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// failure is an error as the client library compares it: code and whole text.
type failure struct {
	code codes.Code
	text string
}

var (
	emptyKey      = &failure{codes.InvalidArgument, "etcdserver: key is not provided"}
	keyNotFound   = &failure{codes.InvalidArgument, "etcdserver: key not found"}
	valueProvided = &failure{codes.InvalidArgument, "etcdserver: value is provided"}
	leaseProvided = &failure{codes.InvalidArgument, "etcdserver: lease is provided"}
	leaseNotFound = &failure{codes.NotFound, "etcdserver: requested lease not found"}
	tooManyOps    = &failure{codes.InvalidArgument, "etcdserver: too many operations in txn request"}
	duplicateKey  = &failure{codes.InvalidArgument, "etcdserver: duplicate key given in txn request"}
	badSort       = &failure{codes.InvalidArgument, "etcdserver: invalid sort option"}
	compacted     = &failure{codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"}
	future        = &failure{codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"}
	tooLarge      = &failure{codes.InvalidArgument, "etcdserver: request is too large"}
	noSpace       = &failure{codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded"}
	corrupt       = &failure{codes.DataLoss, "etcdserver: corrupt cluster"}
	streamSort    = &failure{codes.Unimplemented, "RangeStream does not support custom sort orders"}
	streamFilter  = &failure{codes.Unimplemented, "RangeStream does not support revision filters"}
)

// step is one call: why it is worth making, and what the peer is known to answer. Without that
// knowledge two servers that both fail for a reason of their own would pass.
type step struct {
	why     string
	request proto.Message
	want    *failure // nil: success
}

// run plays steps in order on both servers. A revision that differs ends the table: all later
// replies would differ as well.
func (p *pair) run(t *testing.T, steps []step) {
	t.Helper()
	for i, s := range steps {
		peer, subject := together(p, func(s2 *server) reply { return call(s2, s.request) })
		where := fmt.Sprintf("step %d, %s\nrequest %T{%s}", i, s.why, s.request,
			shorten(fmt.Sprint(s.request), 600))
		want := reply{}
		if s.want != nil {
			want = reply{code: s.want.code, text: s.want.text}
		}
		if peer.code != want.code || peer.text != want.text {
			t.Errorf("%s\nthe peer itself answers %v instead of %v", where, peer, want)
		}
		if agree(s.request, peer, subject) {
			continue
		}
		t.Errorf("%s\n etcd %v\nraftd %v", where, peer, subject)
		if a, b := headerOf(peer), headerOf(subject); a != nil && b != nil && a.Revision != b.Revision {
			t.Fatal("revisions have parted; the rest of the table is meaningless")
		}
	}
}

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func get(key string) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte(key)} }

func span(key, end string) *pb.RangeRequest {
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func all() *pb.RangeRequest { return span("\x00", "\x00") }

func with[T any](request T, change func(T)) T {
	change(request)
	return request
}

func del(key, end string) *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
}

func op(request proto.Message) *pb.RequestOp {
	switch r := request.(type) {
	case *pb.RangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
	case *pb.PutRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
	case *pb.DeleteRangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
	case *pb.TxnRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
	}
	panic(fmt.Sprintf("no operation of type %T", request))
}

func ops(requests ...proto.Message) []*pb.RequestOp {
	var list []*pb.RequestOp
	for _, request := range requests {
		list = append(list, op(request))
	}
	return list
}

func then(requests ...proto.Message) *pb.TxnRequest {
	return &pb.TxnRequest{Success: ops(requests...)}
}

func when(compares ...*pb.Compare) *pb.TxnRequest { return &pb.TxnRequest{Compare: compares} }

func compareInt(key string, target pb.Compare_CompareTarget, result pb.Compare_CompareResult, n int64) *pb.Compare {
	c := &pb.Compare{Key: []byte(key), Target: target, Result: result}
	switch target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: n}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: n}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: n}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: n}
	}
	return c
}

func compareValue(key string, result pb.Compare_CompareResult, value string) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Target: pb.Compare_VALUE, Result: result,
		TargetUnion: &pb.Compare_Value{Value: []byte(value)}}
}

func compact(revision int64) *pb.CompactionRequest {
	return &pb.CompactionRequest{Revision: revision}
}

func at(revision int64, request *pb.RangeRequest) *pb.RangeRequest {
	request.Revision = revision
	return request
}

func TestPut(t *testing.T) {
	newPair(t).run(t, []step{
		{"an empty store has revision 1", all(), nil},
		{"the first put makes revision 2", put("a", "1"), nil},
		{"create revision and version of the first put", get("a"), nil},
		{"prev_kv of an existing key", &pb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true}, nil},
		{"prev_kv of a new key is absent", &pb.PutRequest{Key: []byte("b"), PrevKv: true}, nil},
		{"an empty value", put("c", ""), nil},
		{"an identical value is a change", put("a", "2"), nil},
		{"and counts as a version", get("a"), nil},
		{"empty key", put("", "x"), emptyKey},
		{"ignore_value keeps the value", &pb.PutRequest{Key: []byte("a"), IgnoreValue: true}, nil},
		{"", get("a"), nil},
		{"ignore_value with prev_kv", &pb.PutRequest{Key: []byte("a"), IgnoreValue: true, PrevKv: true}, nil},
		{"ignore_value with a value", &pb.PutRequest{Key: []byte("a"), Value: []byte("x"), IgnoreValue: true}, valueProvided},
		{"ignore_value of a missing key", &pb.PutRequest{Key: []byte("no"), IgnoreValue: true}, keyNotFound},
		{"ignore_lease without a lease on the key", &pb.PutRequest{Key: []byte("a"), Value: []byte("y"), IgnoreLease: true}, nil},
		{"ignore_lease with a lease", &pb.PutRequest{Key: []byte("a"), Lease: 7, IgnoreLease: true}, leaseProvided},
		{"ignore_lease of a missing key", &pb.PutRequest{Key: []byte("no"), IgnoreLease: true}, keyNotFound},
		{"both ignored", &pb.PutRequest{Key: []byte("a"), IgnoreLease: true, IgnoreValue: true}, nil},
		{"both ignored, with a value", &pb.PutRequest{Key: []byte("a"), Value: []byte("x"), Lease: 1, IgnoreLease: true, IgnoreValue: true}, valueProvided},
		{"unknown lease", &pb.PutRequest{Key: []byte("a"), Lease: 12345}, leaseNotFound},
		{"unknown lease, negative", &pb.PutRequest{Key: []byte("a"), Lease: -1}, leaseNotFound},
		{"errors have not moved the revision", all(), nil},
		{"binary key", put("\x00", "zero"), nil},
		{"binary key, longer", put("\x00\x00", "zeros"), nil},
		{"highest byte", put("\xff", "\xff\x00"), nil},
		{"key with a slash and UTF-8", put("/registry/pods/ä", "ü"), nil},
		{"a key of 4 KiB", put(string(bytes.Repeat([]byte("k"), 4096)), "long"), nil},
		{"a key of 100 KiB", put(string(bytes.Repeat([]byte("l"), 100<<10)), "longer"), nil},
		{"a value of 1 MiB", put("big", string(bytes.Repeat([]byte("v"), 1<<20))), nil},
		{"all of it", all(), nil},
		{"just above the request limit", put("big", string(bytes.Repeat([]byte("v"), 1572864))), tooLarge},
		{"delete, then put starts over", del("a", ""), nil},
		{"", &pb.PutRequest{Key: []byte("a"), Value: []byte("new"), PrevKv: true}, nil},
		{"", get("a"), nil},
		{"unknown fields are skipped", withUnknown(put("u", "1")), nil},
		{"", get("u"), nil},
	})
}

// withUnknown adds fields that no etcd knows: a varint, a byte string and a fixed64.
func withUnknown[T proto.Message](request T) T {
	request.ProtoReflect().SetUnknown([]byte("\xc0\x3e\x96\x01\xca\x3e\x03abc\xd1\x3e12345678"))
	return request
}

// seed fills a store whose keys differ in versions, create and mod revisions and values.
func seed() []step {
	steps := []step{}
	add := func(request proto.Message) { steps = append(steps, step{"seed", request, nil}) }
	for i, key := range []string{"b", "a", "d", "c", "f", "e"} {
		add(put(key, fmt.Sprint(9-i)))
	}
	add(put("a", "0"))
	add(put("c", "5"))
	add(put("a", "7"))
	add(del("d", ""))
	add(put("aa", "3"))
	add(put("d", "8"))
	add(then(put("x1", "p"), put("x2", "q"), put("x3", "o")))
	add(put("\x00", "zero"))
	add(put("\xff\xff", "last"))
	return steps
}

func TestRange(t *testing.T) {
	p := newPair(t)
	p.run(t, seed())
	steps := []step{
		{"one key", get("a"), nil},
		{"missing key", get("nope"), nil},
		{"empty key", get(""), emptyKey},
		{"empty key with an end", span("", "z"), emptyKey},
		{"half open", span("a", "c"), nil},
		{"end is exclusive", span("a", "d"), nil},
		{"from key on", span("d", "\x00"), nil},
		{"all", all(), nil},
		{"prefix", span("x", "y"), nil},
		{"end equals key", span("a", "a"), nil},
		{"end below key", span("c", "a"), nil},
		{"end below key, count only", with(span("c", "a"), func(r *pb.RangeRequest) { r.CountOnly = true }), nil},
		{"prefix of the highest byte", span("\xff", "\x00"), nil},
		{"unknown fields are skipped", withUnknown(get("a")), nil},
		{"a negative revision is the current one", at(-5, get("a")), nil},
		{"the current revision", at(16, all()), nil},
		{"a future revision", at(17, all()), future},
		{"a far future revision", at(1<<62, all()), future},
		{"sort order out of range", with(all(), func(r *pb.RangeRequest) { r.SortOrder = 3 }), badSort},
		{"sort order negative", with(all(), func(r *pb.RangeRequest) { r.SortOrder = -1 }), badSort},
		{"sort target out of range", with(all(), func(r *pb.RangeRequest) { r.SortTarget = 5 }), badSort},
		{"sort target negative", with(all(), func(r *pb.RangeRequest) { r.SortTarget = -1 }), badSort},
	}
	for revision := int64(1); revision <= 16; revision++ {
		steps = append(steps, step{"each old revision", at(revision, all()), nil},
			step{"each old revision of one key", at(revision, get("d")), nil})
	}
	for _, limit := range []int64{-1, 1, 2, 11, 12, 13, 1 << 40, 1<<63 - 1} {
		for _, more := range []func(*pb.RangeRequest){
			func(r *pb.RangeRequest) {},
			func(r *pb.RangeRequest) { r.KeysOnly = true },
			func(r *pb.RangeRequest) { r.CountOnly = true },
			func(r *pb.RangeRequest) { r.Serializable = true },
			func(r *pb.RangeRequest) { r.Revision = 9 },
			func(r *pb.RangeRequest) { r.MinModRevision = 8 },
			func(r *pb.RangeRequest) { r.MaxCreateRevision = 6 },
			func(r *pb.RangeRequest) { r.Key, r.RangeEnd = []byte("a"), nil },
		} {
			steps = append(steps, step{fmt.Sprintf("limit %d", limit),
				with(with(all(), func(r *pb.RangeRequest) { r.Limit = limit }), more), nil})
		}
	}
	for order := range pb.RangeRequest_SortOrder_name {
		for target := range pb.RangeRequest_SortTarget_name {
			// Order NONE with a target other than KEY sorts ascending, but stock etcd has then
			// taken only the first limit + 1 keys in key order before it sorts.
			for _, limit := range []int64{0, 1, 3, 11, 100} {
				for _, keysOnly := range []bool{false, true} {
					steps = append(steps, step{"sorts", with(all(), func(r *pb.RangeRequest) {
						r.SortOrder = pb.RangeRequest_SortOrder(order)
						r.SortTarget = pb.RangeRequest_SortTarget(target)
						r.Limit, r.KeysOnly = limit, keysOnly
					}), nil})
				}
			}
		}
	}
	for _, bound := range []int64{-1, 1, 4, 8, 9, 16, 1000} {
		for _, filter := range []func(*pb.RangeRequest){
			func(r *pb.RangeRequest) { r.MinModRevision = bound },
			func(r *pb.RangeRequest) { r.MaxModRevision = bound },
			func(r *pb.RangeRequest) { r.MinCreateRevision = bound },
			func(r *pb.RangeRequest) { r.MaxCreateRevision = bound },
			func(r *pb.RangeRequest) { r.MinModRevision, r.MaxModRevision = bound, bound+3 },
			func(r *pb.RangeRequest) { r.MaxModRevision, r.CountOnly = bound, true },
			func(r *pb.RangeRequest) { r.MinCreateRevision, r.KeysOnly = bound, true },
			func(r *pb.RangeRequest) { r.MinModRevision, r.Revision = bound, 10 },
			func(r *pb.RangeRequest) {
				r.MinModRevision, r.SortOrder, r.SortTarget, r.Limit = bound, pb.RangeRequest_DESCEND, pb.RangeRequest_MOD, 2
			},
		} {
			steps = append(steps, step{fmt.Sprintf("filter with %d", bound), with(all(), filter), nil})
		}
	}
	p.run(t, steps)
}

func TestDeleteRange(t *testing.T) {
	p := newPair(t)
	p.run(t, seed())
	p.run(t, []step{
		{"empty key", del("", ""), emptyKey},
		{"empty key with an end", del("", "z"), emptyKey},
		{"deleting nothing moves no revision", del("nope", ""), nil},
		{"nor does an empty interval", del("m", "n"), nil},
		{"nor an inverted one", del("c", "a"), nil},
		{"", all(), nil},
		{"one key with prev_kv", with(del("a", ""), func(r *pb.DeleteRangeRequest) { r.PrevKv = true }), nil},
		{"again: gone", with(del("a", ""), func(r *pb.DeleteRangeRequest) { r.PrevKv = true }), nil},
		{"an interval with prev_kv, in key order", with(del("b", "e"), func(r *pb.DeleteRangeRequest) { r.PrevKv = true }), nil},
		{"a prefix without prev_kv", del("x", "y"), nil},
		{"put after delete starts over", put("b", "again"), nil},
		{"", get("b"), nil},
		{"the old revision still shows what was deleted", at(16, all()), nil},
		{"all that is left", with(del("\x00", "\x00"), func(r *pb.DeleteRangeRequest) { r.PrevKv = true }), nil},
		{"", all(), nil},
		{"unknown fields are skipped", withUnknown(del("a", "")), nil},
	})
}

func TestTxn(t *testing.T) {
	p := newPair(t)
	p.run(t, seed())
	p.run(t, []step{
		{"an empty txn succeeds", &pb.TxnRequest{}, nil},
		{"only a failure branch: succeeds with nothing", &pb.TxnRequest{Failure: ops(put("a", "z"))}, nil},
		{"reads move no revision", then(get("a"), all()), nil},
		{"serializable reads", then(with(get("a"), func(r *pb.RangeRequest) { r.Serializable = true })), nil},
		{"reads at an old revision", then(at(5, all())), nil},
		{"reads at the current revision", then(at(16, get("a"))), nil},
		{"a delete of nothing moves no revision", then(del("nope", "")), nil},
		{"a nested empty txn", then(&pb.TxnRequest{}), nil},
		{"a nested read", then(then(get("a"))), nil},
		{"", all(), nil},
		{"put and reads see earlier writes", then(get("n"), put("n", "1"), get("n"), span("m", "o")), nil},
		{"delete then range in one txn", then(del("n", ""), get("n")), nil},
		{"deletes may overlap", then(del("a", "c"), del("a", "d"), get("b")), nil},
		{"put with prev_kv", then(&pb.PutRequest{Key: []byte("a"), Value: []byte("1"), PrevKv: true}), nil},
		{"put with prev_kv of an existing key", then(&pb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true}), nil},
		{"many puts share a revision", then(put("s1", "1"), put("s2", "2"), put("s3", "3")), nil},
		{"", span("s", "t"), nil},
		{"range of the txn's own revision is in the future", then(put("q", "1"), at(23, get("q"))), future},
		{"and nothing happened", get("q"), nil},
		{"a range in a txn: future", then(at(1000, get("q"))), future},
		{"a range in a txn: below the compacted revision, which is -1 at first", then(at(-2, get("q"))), compacted},
		{"the same with a put", then(put("q", "1"), at(-2, get("q"))), compacted},
		{"so -1 is not yet compacted, and means the current one", then(at(-1, get("q"))), nil},
		{"a bad range in the branch that does not run is not judged by revision",
			&pb.TxnRequest{Success: ops(put("r", "1")), Failure: ops(at(1000, get("q")))}, nil},
		{"empty key in a put", then(put("", "")), emptyKey},
		{"empty key in a range", then(get("")), emptyKey},
		{"empty key in a delete", then(del("", "")), emptyKey},
		{"empty key in a compare", when(compareValue("", pb.Compare_EQUAL, "")), emptyKey},
		{"empty key in the other branch", &pb.TxnRequest{Failure: ops(put("", ""))}, emptyKey},
		{"empty key in a nested txn", then(then(put("", ""))), emptyKey},
		{"bad sort in a txn", then(with(all(), func(r *pb.RangeRequest) { r.SortOrder = 9 })), badSort},
		{"an operation without content", &pb.TxnRequest{Success: []*pb.RequestOp{{}}}, keyNotFound},
		{"the same in the other branch", &pb.TxnRequest{Failure: []*pb.RequestOp{{}}}, keyNotFound},
		{"ignore_value with a value", then(&pb.PutRequest{Key: []byte("a"), Value: []byte("x"), IgnoreValue: true}), valueProvided},
		{"ignore_lease with a lease", then(&pb.PutRequest{Key: []byte("a"), Lease: 1, IgnoreLease: true}), leaseProvided},
		{"ignore_value of a missing key", then(&pb.PutRequest{Key: []byte("no"), IgnoreValue: true}), keyNotFound},
		{"judged before the txn runs", then(put("no", "1"), then(&pb.PutRequest{Key: []byte("no"), IgnoreValue: true})), duplicateKey},
		{"ignore_value of a key that the txn deletes", then(put("one", "1"), &pb.PutRequest{Key: []byte("a"), IgnoreValue: true}), nil},
		{"unknown lease", then(put("one", "2"), &pb.PutRequest{Key: []byte("a"), Lease: 99}), leaseNotFound},
		{"all or nothing", get("one"), nil},
		{"unknown fields are skipped", withUnknown(then(put("u", "1"))), nil},
		{"", all(), nil},
	})
}

func TestTxnDuplicates(t *testing.T) {
	p := newPair(t)
	other := func(requests ...proto.Message) *pb.TxnRequest {
		return &pb.TxnRequest{Failure: ops(requests...)}
	}
	p.run(t, []step{
		{"two puts", then(put("a", "1"), put("a", "2")), duplicateKey},
		{"two puts in the branch that does not run", other(put("a", "1"), put("a", "2")), duplicateKey},
		{"put inside a delete", then(put("b", "1"), del("a", "c")), duplicateKey},
		{"order does not matter", then(del("a", "c"), put("b", "1")), duplicateKey},
		{"put of the deleted key", then(del("a", ""), put("a", "1")), duplicateKey},
		{"put at the end of the interval is outside", then(del("a", "c"), put("c", "1")), nil},
		{"put before the interval", then(del("b", "c"), put("a", "1")), nil},
		{"nested put and put", then(put("a", "1"), then(put("a", "2"))), duplicateKey},
		{"nested put within a delete", then(del("a", "z"), then(put("k", "2"))), duplicateKey},
		{"nested delete over a put", then(put("k", "1"), then(del("a", "z"))), duplicateKey},
		{"two nested txns put the same", then(then(put("k", "1")), then(put("k", "2"))), duplicateKey},
		{"two branches of one nested txn may", then(&pb.TxnRequest{Success: ops(put("k", "1")), Failure: ops(put("k", "2"))}), nil},
		{"a branch of the nested one that does not run", then(put("k", "1"), other(put("k", "2"))), duplicateKey},
		{"both branches of the outer one may", &pb.TxnRequest{Success: ops(put("k", "1")), Failure: ops(put("k", "2"))}, nil},
		{"nested delete, then sibling put", then(then(del("k", "")), then(put("k", "1"))), duplicateKey},
		{"deletes in both", then(del("a", "z"), then(del("b", "c"))), nil},
		{"three levels", then(put("a", "1"), then(then(put("a", "2")))), duplicateKey},
		{"empty key comes first", then(put("", "1"), put("", "1")), emptyKey},
		{"put twice and a delete of something else", then(put("a", "1"), put("b", "1"), del("c", "")), nil},
	})
}

// Stock etcd lets these two shapes through; a server that calls them duplicates is as good. The
// store is not looked at afterwards, as the two may have parted.
func TestTxnDuplicateOddities(t *testing.T) {
	p := newPair(t)
	for _, s := range []step{
		{"delete to the end of the keyspace over a put", then(del("a", "\x00"), put("b", "1")), nil},
		{"nested put, then sibling delete", then(then(put("k", "1")), then(del("k", ""))), nil},
	} {
		peer, subject := together(p, func(s2 *server) reply { return call(s2, s.request) })
		if peer.code != codes.OK {
			t.Errorf("%s: the peer itself answers %v", s.why, peer)
		}
		if subject.code != codes.OK && (subject.code != duplicateKey.code || subject.text != duplicateKey.text) {
			t.Errorf("%s: %v", s.why, subject)
		}
	}
}

func TestTxnLimits(t *testing.T) {
	p := newPair(t)
	many := func(n int, make func(int) proto.Message) []*pb.RequestOp {
		var list []*pb.RequestOp
		for i := range n {
			list = append(list, op(make(i)))
		}
		return list
	}
	puts := func(n int) []*pb.RequestOp {
		return many(n, func(i int) proto.Message { return put(fmt.Sprintf("k%03d", i), "v") })
	}
	gets := func(n int) []*pb.RequestOp {
		return many(n, func(i int) proto.Message { return get(fmt.Sprintf("k%03d", i)) })
	}
	var compares []*pb.Compare
	for i := range 129 {
		compares = append(compares, compareInt(fmt.Sprintf("k%03d", i), pb.Compare_VERSION, pb.Compare_GREATER, -1))
	}
	p.run(t, []step{
		{"128 operations", &pb.TxnRequest{Success: puts(128)}, nil},
		{"129 operations", &pb.TxnRequest{Success: puts(129)}, tooManyOps},
		{"129 in the other branch", &pb.TxnRequest{Failure: gets(129)}, tooManyOps},
		{"128 in each part", &pb.TxnRequest{Compare: compares[:128], Success: puts(128), Failure: gets(128)}, nil},
		{"129 compares", &pb.TxnRequest{Compare: compares}, tooManyOps},
		{"a nested txn has what is left: 128 - 1", then(&pb.TxnRequest{Success: puts(127)}), nil},
		{"one too many", then(&pb.TxnRequest{Success: puts(128)}), tooManyOps},
		{"each nested txn anew", then(&pb.TxnRequest{Success: gets(126)}, &pb.TxnRequest{Success: gets(126)}), nil},
		{"too many ops come before empty keys", &pb.TxnRequest{Success: append(puts(128), op(put("", "")))}, tooManyOps},
		{"", all(), nil},
		{"a txn above the request limit", then(put("a", string(bytes.Repeat([]byte("v"), 800000))),
			put("b", string(bytes.Repeat([]byte("v"), 800000)))), tooLarge},
	})
}

// whether makes a txn that reads different keys as the compare holds or not.
func whether(why string, c *pb.Compare) step {
	return step{why, &pb.TxnRequest{Compare: []*pb.Compare{c}, Success: ops(get("a")), Failure: ops(get("b"))}, nil}
}

func TestTxnCompare(t *testing.T) {
	p := newPair(t)
	p.run(t, append(seed(), step{"a key like that of TestCompareLeases", put("leased", "v"), nil}))
	var steps []step
	check := func(why string, c *pb.Compare) { steps = append(steps, whether(why, c)) }
	results := []pb.Compare_CompareResult{pb.Compare_EQUAL, pb.Compare_GREATER, pb.Compare_LESS, pb.Compare_NOT_EQUAL}
	targets := []pb.Compare_CompareTarget{pb.Compare_VERSION, pb.Compare_CREATE, pb.Compare_MOD, pb.Compare_LEASE}
	for _, result := range results {
		for _, key := range []string{"a", "d", "missing", "leased"} {
			for _, target := range targets {
				for _, n := range []int64{-1, 0, 1, 3, 10, 13, 17, 77} {
					check("integers; a missing key counts as 0", compareInt(key, target, result, n))
				}
				check("an absent operand is 0", &pb.Compare{Key: []byte(key), Target: target, Result: result})
			}
			for _, value := range []string{"", "7", "8", "6", "77", "v"} {
				check("values; a missing key is always false", compareValue(key, result, value))
			}
			check("an absent operand is empty", &pb.Compare{Key: []byte(key), Target: pb.Compare_VALUE, Result: result})
		}
		for _, interval := range [][2]string{{"x", "y"}, {"a", "c"}, {"m", "n"}, {"c", "a"}, {"x", "\x00"}, {"\x00", "\x00"}} {
			for _, n := range []int64{0, 1, 14} {
				c := compareInt(interval[0], pb.Compare_MOD, result, n)
				c.RangeEnd = []byte(interval[1])
				check("every key of an interval", c)
				c = compareInt(interval[0], pb.Compare_VERSION, result, n)
				c.RangeEnd = []byte(interval[1])
				check("every key of an interval, by version", c)
			}
			c := compareValue(interval[0], result, "p")
			c.RangeEnd = []byte(interval[1])
			check("every value of an interval", c)
		}
	}
	check("an operand of another kind counts as absent", &pb.Compare{Key: []byte("a"), Target: pb.Compare_VERSION,
		Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_ModRevision{ModRevision: 100}})
	steps = append(steps,
		step{"all compares must hold", &pb.TxnRequest{Compare: []*pb.Compare{
			compareInt("a", pb.Compare_VERSION, pb.Compare_GREATER, 0), compareValue("a", pb.Compare_EQUAL, "no")},
			Success: ops(put("a", "yes")), Failure: ops(put("a", "no"))}, nil},
		step{"nested compares see the state before the txn", then(put("fresh", "1"), &pb.TxnRequest{
			Compare: []*pb.Compare{compareInt("fresh", pb.Compare_VERSION, pb.Compare_EQUAL, 0)},
			Success: ops(put("was", "absent")), Failure: ops(put("was", "present"))}), nil},
		step{"nested twice, with ranges in between", then(put("y", "1"), get("y"), &pb.TxnRequest{
			Compare: []*pb.Compare{compareInt("y", pb.Compare_CREATE, pb.Compare_EQUAL, 0)},
			Success: ops(get("y"), then(get("was"), del("fresh", ""), get("fresh")))}), nil},
		step{"create if absent, as kube-apiserver does", &pb.TxnRequest{
			Compare: []*pb.Compare{compareInt("/registry/x", pb.Compare_MOD, pb.Compare_EQUAL, 0)},
			Success: ops(put("/registry/x", "1")), Failure: ops(get("/registry/x"))}, nil},
		step{"and again", &pb.TxnRequest{
			Compare: []*pb.Compare{compareInt("/registry/x", pb.Compare_MOD, pb.Compare_EQUAL, 0)},
			Success: ops(put("/registry/x", "1")), Failure: ops(get("/registry/x"))}, nil},
		step{"", all(), nil})
	p.run(t, steps)
}

func TestCompareLeases(t *testing.T) {
	p := newPair(t)
	p.run(t, append(seed(), step{"a lease to compare with", &pb.LeaseGrantRequest{ID: 77, TTL: 100000}, nil},
		step{"", &pb.PutRequest{Key: []byte("leased"), Value: []byte("v"), Lease: 77}, nil}))
	var steps []step
	for _, result := range []pb.Compare_CompareResult{pb.Compare_EQUAL, pb.Compare_GREATER, pb.Compare_LESS, pb.Compare_NOT_EQUAL} {
		for _, n := range []int64{-1, 0, 76, 77, 78} {
			steps = append(steps, whether("a lease", compareInt("leased", pb.Compare_LEASE, result, n)))
		}
	}
	p.run(t, steps)
}

func TestCompact(t *testing.T) {
	p := newPair(t)
	p.run(t, []step{
		{"a negative revision", compact(-1), compacted},
		{"revision 0 works once", compact(0), nil},
		{"and not twice", compact(0), compacted},
		{"a future revision", compact(2), future},
	})
	p.run(t, seed())
	p.run(t, []step{
		{"in the middle", compact(11), nil},
		{"the same again", compact(11), compacted},
		{"below", compact(3), compacted},
		{"no revision moved", all(), nil},
		{"reading at the compacted revision", at(11, all()), nil},
		{"and above", at(12, all()), nil},
		{"and below", at(10, all()), compacted},
		{"one key below", at(10, get("a")), compacted},
		{"count below", at(10, with(all(), func(r *pb.RangeRequest) { r.CountOnly = true })), compacted},
		{"serializable below", at(1, with(all(), func(r *pb.RangeRequest) { r.Serializable = true })), compacted},
		{"in a txn at", then(at(11, all())), nil},
		{"in a txn below", then(at(10, all())), compacted},
		{"in a txn a negative revision is below", then(at(-1, all())), compacted},
		{"in a writing txn below", then(put("a", "no"), at(10, get("b"))), compacted},
		{"the tombstone at the edge", at(11, get("d")), nil},
		{"hash of what is compacted", &pb.HashKVRequest{Revision: 5}, compacted},
		{"hash of the future", &pb.HashKVRequest{Revision: 1000}, future},
		{"hash of a negative revision, which is never compacted", &pb.HashKVRequest{Revision: -1}, nil},
		{"hash of now", &pb.HashKVRequest{}, nil},
		{"hash of then", &pb.HashKVRequest{Revision: 12}, nil},
		{"delete, then compact at the delete", del("a", ""), nil},
		{"physically", &pb.CompactionRequest{Revision: 17, Physical: true}, nil},
		{"at the current revision all is there", all(), nil},
		{"also by number", at(17, all()), nil},
		{"put again", put("a", "back"), nil},
		{"starts over", get("a"), nil},
		{"compact at the current revision", compact(18), nil},
		{"beyond it", compact(19), future},
		{"unknown fields are skipped", withUnknown(compact(18)), compacted},
	})
	p.crash()
	p.run(t, []step{
		{"after a crash: the compacted revision stays", at(17, all()), compacted},
		{"and all that lives", all(), nil},
		{"and no second compaction", compact(18), compacted},
		{"the next revision", put("a", "next"), nil},
		{"", all(), nil},
	})
}

func TestKeysWithLeases(t *testing.T) {
	p := newPair(t)
	leased := func(key string, id int64) *pb.PutRequest {
		return &pb.PutRequest{Key: []byte(key), Value: []byte("v"), Lease: id}
	}
	keys := func(id int64) *pb.LeaseTimeToLiveRequest { return &pb.LeaseTimeToLiveRequest{ID: id} }
	p.run(t, []step{
		{"grant moves no revision", &pb.LeaseGrantRequest{ID: 10, TTL: 1000000}, nil},
		{"another", &pb.LeaseGrantRequest{ID: 11, TTL: 1000000}, nil},
		{"in use", &pb.LeaseGrantRequest{ID: 10, TTL: 10}, &failure{codes.FailedPrecondition, "etcdserver: lease already exists"}},
		{"too long", &pb.LeaseGrantRequest{ID: 12, TTL: 9000000001}, &failure{codes.OutOfRange, "etcdserver: too large lease TTL"}},
		{"the shortest is 2 s", &pb.LeaseGrantRequest{ID: 13, TTL: 1}, nil},
		{"also for none", &pb.LeaseGrantRequest{ID: 14, TTL: 0}, nil},
		{"revoke of a lease without keys", &pb.LeaseRevokeRequest{ID: 13}, nil},
		{"", &pb.LeaseRevokeRequest{ID: 14}, nil},
		{"revoke of an unknown lease", &pb.LeaseRevokeRequest{ID: 99}, leaseNotFound},
		{"time to live of an unknown lease is -1", keys(99), nil},
		{"attach", leased("c", 10), nil},
		{"attach another", leased("a", 10), nil},
		{"attach to the other", leased("b", 11), nil},
		{"the lease is in the pair", all(), nil},
		{"keys only: no lease", with(all(), func(r *pb.RangeRequest) { r.KeysOnly = true }), nil},
		{"keys only, sorted by value: lease", with(all(), func(r *pb.RangeRequest) { r.KeysOnly, r.SortTarget = true, pb.RangeRequest_VALUE }), nil},
		{"ignore_lease keeps it", &pb.PutRequest{Key: []byte("a"), Value: []byte("w"), IgnoreLease: true}, nil},
		{"", get("a"), nil},
		{"ignore_value with another lease", &pb.PutRequest{Key: []byte("a"), Lease: 11, IgnoreValue: true, PrevKv: true}, nil},
		{"", get("a"), nil},
		{"a put without lease detaches", put("a", "free"), nil},
		{"", get("a"), nil},
		{"in a txn", then(leased("t1", 10), leased("t2", 10)), nil},
		{"compare by lease", &pb.TxnRequest{Compare: []*pb.Compare{compareInt("t1", pb.Compare_LEASE, pb.Compare_EQUAL, 10)},
			Success: ops(put("yes", "")), Failure: ops(put("no", ""))}, nil},
		{"delete detaches", del("t2", ""), nil},
		{"revoke deletes all keys in one revision", &pb.LeaseRevokeRequest{ID: 10}, nil},
		{"", all(), nil},
		{"the revoked lease is unknown", leased("c", 10), leaseNotFound},
	})
	p.crash()
	p.run(t, []step{
		{"after a crash: leases stay", &pb.LeaseRevokeRequest{ID: 11}, nil},
		{"with their keys", all(), nil},
		{"", &pb.LeaseRevokeRequest{ID: 10}, leaseNotFound},
	})
}

// Not compared: a sort target without an order. Stock etcd sorts each chunk by it, goes on behind
// the last key of that, and so repeats some keys or leaves them out.
func TestRangeStream(t *testing.T) {
	p := newPair(t)
	p.run(t, seed())
	var bulk []step
	for i := range 40 {
		bulk = append(bulk, step{"bulk", put(fmt.Sprintf("/bulk/%03d", i), string(bytes.Repeat([]byte("v"), 150000))), nil})
	}
	p.run(t, bulk)
	for _, c := range []struct {
		why     string
		request *pb.RangeRequest
		want    *failure
	}{
		{"one key", get("a"), nil},
		{"no key", get("nope"), nil},
		{"empty key", get(""), emptyKey},
		{"all, in many chunks", all(), nil},
		{"limited", with(all(), func(r *pb.RangeRequest) { r.Limit = 17 }), nil},
		{"limited to the number there is", with(span("/bulk/", "/bulk0"), func(r *pb.RangeRequest) { r.Limit = 40 }), nil},
		{"count only", with(all(), func(r *pb.RangeRequest) { r.CountOnly = true }), nil},
		{"keys only", with(all(), func(r *pb.RangeRequest) { r.KeysOnly = true }), nil},
		{"old revision", at(12, all()), nil},
		{"future revision", at(1000, all()), future},
		{"ascending by key is allowed", with(all(), func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_ASCEND }), nil},
		{"descending is not", with(all(), func(r *pb.RangeRequest) { r.SortOrder = pb.RangeRequest_DESCEND }), streamSort},
		{"by value is not", with(all(), func(r *pb.RangeRequest) {
			r.SortTarget, r.SortOrder = pb.RangeRequest_VALUE, pb.RangeRequest_ASCEND
		}), streamSort},
		{"filters are not", with(all(), func(r *pb.RangeRequest) { r.MinModRevision = 2 }), streamFilter},
		{"nor the others", with(all(), func(r *pb.RangeRequest) { r.MaxCreateRevision = 2 }), streamFilter},
		{"bad sort", with(all(), func(r *pb.RangeRequest) { r.SortOrder = 7 }), badSort},
	} {
		peer, subject := together(p, func(s *server) reply { return callStream(s, c.request) })
		if c.want != nil && (peer.code != c.want.code || peer.text != c.want.text) {
			t.Errorf("%s: the peer itself answers %v", c.why, peer)
		}
		if !equal(peer, subject) {
			t.Errorf("%s: %v\n etcd %v\nraftd %v", c.why, c.request, peer, subject)
		}
	}
}

// alarm makes one alarm call about the member itself; the replies have to be equal.
func (p *pair) alarm(t *testing.T, action pb.AlarmRequest_AlarmAction, kind pb.AlarmType) {
	t.Helper()
	peer, subject := together(p, func(s *server) reply {
		status := &pb.StatusResponse{}
		if err := s.Conn.Invoke(t.Context(), "/etcdserverpb.Maintenance/Status", &pb.StatusRequest{}, status); err != nil {
			return settle(nil, err)
		}
		r := call(s, &pb.AlarmRequest{Action: action, Alarm: kind, MemberID: status.Header.MemberId})
		if list, ok := r.message.(*pb.AlarmResponse); ok {
			for _, member := range list.Alarms {
				if member.MemberID == status.Header.MemberId {
					member.MemberID = 1
				}
			}
		}
		return r
	})
	if !equal(peer, subject) || peer.code != codes.OK {
		t.Errorf("%v of %v\n etcd %v\nraftd %v", action, kind, peer, subject)
	}
}

func TestAlarms(t *testing.T) {
	p := newPair(t)
	p.run(t, seed())
	alarm := func(action pb.AlarmRequest_AlarmAction, kind pb.AlarmType) { p.alarm(t, action, kind) }
	alarm(pb.AlarmRequest_GET, pb.AlarmType_NONE)
	alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_NOSPACE)
	alarm(pb.AlarmRequest_GET, pb.AlarmType_NONE)
	alarm(pb.AlarmRequest_GET, pb.AlarmType_CORRUPT)
	p.run(t, []step{
		{"puts are refused", put("a", "1"), noSpace},
		{"txns with a put are", then(put("a", "1")), noSpace},
		{"a put in the branch that does not run counts", &pb.TxnRequest{Failure: ops(put("a", "1"))}, noSpace},
		{"an invalid put is invalid first", put("", "1"), emptyKey},
		{"reads go on", all(), nil},
		{"reading txns go on", then(all()), nil},
		{"deletes go on", del("a", ""), nil},
		{"deleting txns go on", then(del("b", "")), nil},
		{"compaction goes on", compact(8), nil},
	})
	p.crash()
	p.run(t, []step{{"the alarm survives a crash", put("a", "1"), noSpace}})
	alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE)
	alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE)
	p.run(t, []step{{"disarmed", put("a", "1"), nil}, {"", all(), nil}})
	alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_CORRUPT)
	p.run(t, []step{
		{"puts are refused", put("a", "1"), corrupt},
		{"deletes are", del("a", ""), corrupt},
		{"writing txns are", then(put("a", "1")), corrupt},
		{"compaction is", compact(9), corrupt},
		{"reads go on", all(), nil},
	})
	alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_CORRUPT)
	p.run(t, []step{{"disarmed", put("a", "1"), nil}, {"", all(), nil}})
}

// Status names every alarm, each with the member that it was raised for.
func TestAlarmsInStatus(t *testing.T) {
	p := newPair(t)
	listed := func(why string) {
		t.Helper()
		peer, subject := together(p, func(s *server) []string {
			status, err := pb.NewMaintenanceClient(s.Conn).Status(t.Context(), &pb.StatusRequest{})
			if err != nil {
				return []string{err.Error()}
			}
			for i, text := range status.Errors { // Go's protobuf varies the blanks on purpose
				status.Errors[i] = strings.Join(strings.Fields(text), " ")
			}
			slices.Sort(status.Errors)
			return status.Errors
		})
		if !slices.Equal(peer, subject) {
			t.Errorf("%s\n etcd %q\nraftd %q", why, peer, subject)
		}
	}
	change := func(action pb.AlarmRequest_AlarmAction, member uint64, kind pb.AlarmType) {
		t.Helper()
		p.compare(t, action.String(), codes.OK, func(s *server) reply {
			return call(s, &pb.AlarmRequest{Action: action, MemberID: member, Alarm: kind})
		})
	}
	listed("none")
	change(pb.AlarmRequest_ACTIVATE, 7, pb.AlarmType_NOSPACE)
	listed("another member's")
	change(pb.AlarmRequest_ACTIVATE, 8, pb.AlarmType_NOSPACE)
	change(pb.AlarmRequest_ACTIVATE, 7, pb.AlarmType_CORRUPT)
	listed("three")
	change(pb.AlarmRequest_DEACTIVATE, 7, pb.AlarmType_NOSPACE)
	listed("two")
}

func TestAlarmsAndLeases(t *testing.T) {
	p := newPair(t)
	p.run(t, []step{{"", &pb.LeaseGrantRequest{ID: 5, TTL: 100000}, nil}})
	p.alarm(t, pb.AlarmRequest_ACTIVATE, pb.AlarmType_NOSPACE)
	p.run(t, []step{
		{"no space: grants are refused", &pb.LeaseGrantRequest{ID: 6, TTL: 1000}, noSpace},
		{"revoke goes on", &pb.LeaseRevokeRequest{ID: 5}, nil},
	})
	p.alarm(t, pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE)
	p.alarm(t, pb.AlarmRequest_ACTIVATE, pb.AlarmType_CORRUPT)
	p.run(t, []step{{"corrupt: grants are refused", &pb.LeaseGrantRequest{ID: 6, TTL: 1000}, corrupt}})
	p.alarm(t, pb.AlarmRequest_DEACTIVATE, pb.AlarmType_CORRUPT)
	p.run(t, []step{{"disarmed", &pb.LeaseGrantRequest{ID: 6, TTL: 1000}, nil}})
}

// Paging as kube-apiserver lists: a fixed revision, keys from the last one on, exact counts.
func TestPagedList(t *testing.T) {
	p := newPair(t)
	var steps []step
	for i := range 57 {
		steps = append(steps, step{"fill", put(fmt.Sprintf("/registry/pods/ns/%03d", i), fmt.Sprint(i)), nil})
	}
	next := "/registry/pods/"
	for page := 0; page < 57; page += 10 {
		key := next
		steps = append(steps, step{fmt.Sprintf("page from %d", page), with(span(key, "/registry/pods0"), func(r *pb.RangeRequest) {
			r.Limit = 10
			if page > 0 {
				r.Revision = 58
			}
		}), nil}, step{"a write in between", put(fmt.Sprintf("/registry/pods/ns/%03d", page), "changed"), nil})
		next = fmt.Sprintf("/registry/pods/ns/%03d\x00", page+9)
	}
	p.run(t, steps)
}
