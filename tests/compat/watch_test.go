package compat

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

const watchTimeout = 10 * time.Second

// watcher is one watch stream. What arrives is kept per watch id: how a catching-up watcher's
// events are cut into responses is free, as long as no revision is split.
type watcher struct {
	s        *server
	stream   pb.Watch_WatchClient
	arrived  chan *pb.WatchResponse
	ended    chan error
	got      map[int64][]string
	problems []string
}

func openWatcher(ctx context.Context, s *server) (*watcher, error) {
	stream, err := pb.NewWatchClient(s.Conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	w := &watcher{s: s, stream: stream, arrived: make(chan *pb.WatchResponse, 10000),
		ended: make(chan error, 1), got: map[int64][]string{}}
	go func() {
		for {
			response, err := stream.Recv()
			if err != nil {
				w.ended <- err
				return
			}
			w.arrived <- response
		}
	}()
	return w, nil
}

func (w *watcher) take(r *pb.WatchResponse) {
	add := func(format string, arguments ...any) {
		w.got[r.WatchId] = append(w.got[r.WatchId], fmt.Sprintf(format, arguments...))
	}
	switch {
	case r.Created || r.Canceled:
		add("created %v canceled %v compacted %d reason %q revision %d", r.Created, r.Canceled,
			r.CompactRevision, r.CancelReason, r.Header.GetRevision())
	case len(r.Events) == 0:
		add("progress %d", r.Header.GetRevision())
	}
	for _, event := range r.Events {
		if event.Kv.GetModRevision() > r.Header.GetRevision() {
			w.problems = append(w.problems, fmt.Sprintf("event %v under header %v", event, r.Header))
		}
		add("%s", prototext.MarshalOptions{}.Format(event))
	}
	if r.Header.GetClusterId() == 0 || r.Header.GetMemberId() == 0 {
		w.problems = append(w.problems, fmt.Sprintf("header %v", r.Header))
	}
}

// gather waits for that many more responses or events, then a little for what must not come.
func (w *watcher) gather(want int) error {
	deadline := time.After(watchTimeout)
	for want > 0 {
		select {
		case r := <-w.arrived:
			w.take(r)
			want -= max(1, len(r.Events))
		case err := <-w.ended:
			return fmt.Errorf("stream ended: %w", err)
		case <-deadline:
			return fmt.Errorf("%d responses or events are missing after %v", want, watchTimeout)
		}
	}
	for {
		select {
		case r := <-w.arrived:
			w.take(r)
		case <-time.After(100 * time.Millisecond):
			return nil
		}
	}
}

// action is one step of a watch scenario: send, or change the store, then wait for replies.
type action struct {
	why  string
	send proto.Message // a part of WatchRequest, or a KV request
	want int
}

func watchRequest(part proto.Message) *pb.WatchRequest {
	switch r := part.(type) {
	case *pb.WatchCreateRequest:
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
	case *pb.WatchCancelRequest:
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: r}}
	case *pb.WatchProgressRequest:
		return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: r}}
	}
	return nil
}

func (p *pair) watch(t *testing.T, actions []action) {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "hasleader", "true"))
	defer cancel()
	var watchers []*watcher
	for _, s := range p.both() {
		w, err := openWatcher(ctx, s)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		watchers = append(watchers, w)
	}
	for i, a := range actions {
		for _, w := range watchers {
			w.got = map[int64][]string{}
			if request := watchRequest(a.send); request != nil {
				if err := w.stream.Send(request); err != nil {
					t.Fatalf("%s: action %d, %s: %v", w.s.name, i, a.why, err)
				}
			} else if r := call(w.s, a.send); r.code != 0 {
				t.Fatalf("%s: action %d, %s: %v", w.s.name, i, a.why, r)
			}
		}
		where := fmt.Sprintf("action %d, %s: %T{%v}", i, a.why, a.send, a.send)
		for _, w := range watchers {
			if err := w.gather(a.want); err != nil {
				t.Fatalf("%s: %s: %v; so far %v", where, w.s.name, err, w.got)
			}
			if len(w.problems) > 0 {
				t.Fatalf("%s: %s: %s", where, w.s.name, strings.Join(w.problems, "; "))
			}
		}
		peer, subject := watchers[0].got, watchers[1].got
		for _, id := range append(keysOf(peer), keysOf(subject)...) {
			if !slices.Equal(peer[id], subject[id]) {
				t.Fatalf("%s: watch %d\n etcd %s\nraftd %s", where, id, strings.Join(peer[id], "\n      "),
					strings.Join(subject[id], "\n      "))
			}
		}
	}
}

func keysOf(m map[int64][]string) []int64 {
	var keys []int64
	for key := range m {
		keys = append(keys, key)
	}
	return keys
}

func create(key, end string, change ...func(*pb.WatchCreateRequest)) *pb.WatchCreateRequest {
	r := &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)}
	for _, c := range change {
		c(r)
	}
	return r
}

func from(revision int64) func(*pb.WatchCreateRequest) {
	return func(r *pb.WatchCreateRequest) { r.StartRevision = revision }
}

func withPrev(r *pb.WatchCreateRequest) { r.PrevKv = true }

func without(kinds ...pb.WatchCreateRequest_FilterType) func(*pb.WatchCreateRequest) {
	return func(r *pb.WatchCreateRequest) { r.Filters = kinds }
}

func named(id int64) func(*pb.WatchCreateRequest) {
	return func(r *pb.WatchCreateRequest) { r.WatchId = id }
}

func TestWatchLive(t *testing.T) {
	newPair(t).watch(t, []action{
		{"one key", create("a", ""), 1},
		{"an interval", create("b", "d"), 1},
		{"from a key on, with previous pairs", create("c", "\x00", withPrev), 1},
		{"nobody but the last sees it", put("z", "1"), 1},
		{"one", put("a", "1"), 1},
		{"two", put("c", "1"), 2},
		{"again, with the pair before", put("c", "2"), 2},
		{"the end is exclusive", put("d", "1"), 1},
		{"a delete", del("c", ""), 2},
		{"a delete of nothing", del("nope", ""), 0},
		{"a txn is atomic and ordered", then(put("c", "3"), put("a", "2"), put("b", "1"), del("d", "")), 5},
		{"put and delete of many", then(del("b", "d")), 3},
		{"progress when all are in step", &pb.WatchProgressRequest{}, 1},
		{"cancel one", &pb.WatchCancelRequest{WatchId: 1}, 1},
		{"an unknown one: silence", &pb.WatchCancelRequest{WatchId: 77}, 0},
		{"the cancelled one is quiet", put("b", "2"), 0},
		{"ids go on", create("b", ""), 1},
		{"it sees", put("b", "3"), 1},
	})
}

func TestWatchOptions(t *testing.T) {
	newPair(t).watch(t, []action{
		{"no puts", create("a", "", without(pb.WatchCreateRequest_NOPUT)), 1},
		{"no deletes", create("a", "", without(pb.WatchCreateRequest_NODELETE)), 1},
		{"neither", create("a", "", without(pb.WatchCreateRequest_NODELETE, pb.WatchCreateRequest_NOPUT)), 1},
		{"a put", put("a", "1"), 1},
		{"a delete", del("a", ""), 1},
		{"an id of the client's choice", create("x", "", named(50)), 1},
		{"the same again", create("y", "", named(50)), 1},
		{"the server's next", create("x", ""), 1},
		{"both see", put("x", "1"), 2},
		{"an empty key is the first key", create("", "\x00", withPrev), 1},
		{"all see", put("x", "2"), 3},
		{"an empty key without an end", create("", ""), 1},
		{"an inverted interval", create("d", "c"), 1},
		{"an empty interval", create("d", "d"), 1},
		{"a negative start", create("a", "", from(-1)), 1},
		{"a start in the future", create("f", "", from(9)), 1},
		{"too early", put("f", "6"), 1},
		{"too early", put("f", "7"), 1},
		{"too early", put("f", "8"), 1},
		{"now", put("f", "9"), 2},
	})
}

func TestWatchHistory(t *testing.T) {
	p := newPair(t)
	p.run(t, seed())
	p.watch(t, []action{
		{"everything from the first revision", create("\x00", "\x00", from(1), withPrev), 18},
		{"one key", create("a", "", from(2)), 4},
		{"a deleted key", create("d", "", from(5), withPrev), 3},
		{"from the middle of it", create("\x00", "\x00", from(11)), 9},
		{"from the current revision", create("\xff", "\x00", from(16)), 2},
		{"from the next", create("a", "z", from(17)), 1},
		{"history and live join", put("a", "live"), 4},
	})
	p.run(t, []step{{"", compact(11), nil}})
	p.watch(t, []action{
		{"below the compacted revision: created, then canceled", create("a", "", from(5)), 2},
		{"just below", create("a", "", from(10)), 2},
		{"at it: the tombstone there is still seen", create("\x00", "\x00", from(11), withPrev), 10},
		{"above", create("\x00", "\x00", from(12), withPrev), 9},
		{"live", put("q", "1"), 2},
	})
}

func TestWatchLeaseKeys(t *testing.T) {
	p := newPair(t)
	var steps []step
	steps = append(steps, step{"", &pb.LeaseGrantRequest{ID: 3, TTL: 100000}, nil})
	for _, key := range []string{"c", "a", "b"} {
		steps = append(steps, step{"", &pb.PutRequest{Key: []byte(key), Lease: 3}, nil})
	}
	p.run(t, steps)
	p.watch(t, []action{
		{"all", create("\x00", "\x00", withPrev), 1},
		{"revoke deletes in one revision, in key order", &pb.LeaseRevokeRequest{ID: 3}, 3},
	})
}

// A long history arrives whole, in order and once, while writes go on.
func TestWatchCatchesUp(t *testing.T) {
	const writes = 1200
	p := newPair(t)
	for _, s := range p.both() {
		for i := range writes {
			if r := call(s, put(fmt.Sprintf("k%d", i%7), fmt.Sprint(i))); r.code != 0 {
				t.Fatalf("%s: %v", s.name, r)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		stream, err := pb.NewWatchClient(s.Conn).Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(watchRequest(create("\x00", "\x00", from(2)))); err != nil {
			t.Fatal(err)
		}
		go func() {
			for i := writes; i < 2*writes; i++ {
				call(s, put(fmt.Sprintf("k%d", i%7), fmt.Sprint(i)))
			}
		}()
		for next := int64(2); next < 2*writes+2; {
			r, err := stream.Recv()
			if err != nil {
				t.Fatalf("%s: before revision %d: %v", s.name, next, err)
			}
			for _, event := range r.Events {
				if event.Kv.ModRevision != next || string(event.Kv.Value) != fmt.Sprint(next-2) {
					t.Fatalf("%s: revision %d is due, got %v", s.name, next, event)
				}
				next++
			}
		}
	}
}
