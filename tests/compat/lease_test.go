package compat

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// keepAlive sends one keep-alive on a stream of its own.
func keepAlive(t *testing.T, id int64) func(*server) reply {
	return func(s *server) reply {
		stream, err := pb.NewLeaseClient(s.Conn).LeaseKeepAlive(t.Context())
		if err != nil {
			return settle(nil, err)
		}
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			return settle(nil, err)
		}
		r, err := stream.Recv()
		_ = stream.CloseSend()
		return settle(r, err)
	}
}

// remaining is TimeToLive with what the clock decides made equal: some time is left, or none.
func remaining(id int64, keys bool) func(*server) reply {
	return func(s *server) reply {
		r := call(s, &pb.LeaseTimeToLiveRequest{ID: id, Keys: keys})
		if left, ok := r.message.(*pb.LeaseTimeToLiveResponse); ok && left.TTL >= 0 && left.TTL <= left.GrantedTTL {
			left.TTL = 0
		}
		return r
	}
}

func TestLease(t *testing.T) {
	p := newPair(t)
	grant := func(id, ttl int64) proto.Message { return &pb.LeaseGrantRequest{ID: id, TTL: ttl} }
	p.run(t, []step{
		{"no leases", &pb.LeaseLeasesRequest{}, nil},
		{"a long one", grant(1, 1000), nil},
		{"a negative lifetime is the shortest", grant(2, -5), nil},
		{"the longest", grant(3, 9000000000), nil},
		{"two keys", &pb.PutRequest{Key: []byte("b"), Lease: 1}, nil},
		{"not in key order", &pb.PutRequest{Key: []byte("a"), Lease: 1}, nil},
	})
	p.compare(t, "keep-alive", codes.OK, keepAlive(t, 1))
	p.compare(t, "keep-alive of an unknown lease has TTL 0", codes.OK, keepAlive(t, 99))
	p.compare(t, "time to live", codes.OK, remaining(1, false))
	p.compare(t, "of an unknown lease", codes.OK, remaining(99, true))
	for _, s := range p.both() {
		r, err := pb.NewLeaseClient(s.Conn).LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true})
		if err != nil || len(r.Keys) != 2 || r.TTL < 900 || r.TTL > 1000 || r.GrantedTTL != 1000 {
			t.Errorf("%s: time to live with keys: %v %v", s.name, r, err)
		}
		list, err := pb.NewLeaseClient(s.Conn).LeaseLeases(t.Context(), &pb.LeaseLeasesRequest{})
		if err != nil || len(list.Leases) < 2 {
			t.Errorf("%s: leases: %v %v", s.name, list, err)
		}
		a, errA := pb.NewLeaseClient(s.Conn).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 100})
		b, errB := pb.NewLeaseClient(s.Conn).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 100})
		if errA != nil || errB != nil || a.ID <= 0 || b.ID <= 0 || a.ID == b.ID {
			t.Errorf("%s: ids of the server's choice: %v %v %v %v", s.name, a, errA, b, errB)
		}
	}
}

// Keys go when their lease does: not before its time, and in one revision. Keep-alives put it off.
func TestLeaseExpiry(t *testing.T) {
	const ttl = 3
	p := newPair(t)
	p.run(t, []step{
		{"a short lease", &pb.LeaseGrantRequest{ID: 1, TTL: ttl}, nil},
		{"one that is kept alive", &pb.LeaseGrantRequest{ID: 2, TTL: ttl}, nil},
		{"its keys", then(&pb.PutRequest{Key: []byte("x1"), Lease: 1}, &pb.PutRequest{Key: []byte("x2"), Lease: 1}), nil},
		{"", &pb.PutRequest{Key: []byte("kept"), Lease: 2}, nil},
	})
	granted := time.Now()
	for time.Since(granted) < (ttl-1)*time.Second {
		time.Sleep(500 * time.Millisecond)
		p.compare(t, "keep-alive", codes.OK, keepAlive(t, 2))
	}
	p.run(t, []step{{"not before its time", all(), nil}})
	for _, s := range p.both() {
		gone := false
		for deadline := time.Now().Add(8 * time.Second); !gone && time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
			r, err := pb.NewKVClient(s.Conn).Range(t.Context(), span("x", "y"))
			if err != nil {
				t.Fatalf("%s: %v", s.name, err)
			}
			gone = r.Count == 0
			for _, each := range p.both() {
				keepAlive(t, 2)(each)
			}
			if r.Count == 1 {
				t.Fatalf("%s: a lease took only some of its keys: %v", s.name, r)
			}
		}
		if !gone {
			t.Errorf("%s: the keys of a lease of %d s outlive it by 8 s", s.name, ttl)
		}
	}
	p.run(t, []step{{"what is kept alive stays; one revision was made", all(), nil}})
}
