package compat

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// The limit is the operator's; a learner that goes makes room.
func TestMaxLearners(t *testing.T) {
	p := newPair(t, "--max-learners=2")
	add := func(n int) func(*server) reply {
		return func(s *server) reply {
			r := call(s, &pb.MemberAddRequest{PeerURLs: []string{fmt.Sprintf("http://127.0.0.1:%d", n)}, IsLearner: true})
			if m, ok := r.message.(*pb.MemberAddResponse); ok {
				r.message = &pb.MemberAddResponse{Header: m.Header, Member: &pb.Member{IsLearner: m.Member.IsLearner}}
			}
			return r
		}
	}
	p.compare(t, "one", codes.OK, add(1))
	p.compare(t, "two", codes.OK, add(2))
	p.compare(t, "three", codes.FailedPrecondition, add(3))
	p.compare(t, "one goes", codes.OK, func(s *server) reply {
		for _, m := range invoke(t.Context(), s, &pb.MemberListRequest{}).message.(*pb.MemberListResponse).Members {
			if m.IsLearner {
				r := call(s, &pb.MemberRemoveRequest{ID: m.ID})
				r.message = nil
				return r
			}
		}
		return reply{text: "no learner"}
	})
	p.compare(t, "another", codes.OK, add(4))
}
