package compat

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

func TestMaintenance(t *testing.T) {
	p := newPair(t)
	p.run(t, seed())
	for _, c := range []struct {
		why  string
		call func(*server) reply
		want codes.Code
	}{
		{"defragment: the header is absent", func(s *server) reply { return call(s, &pb.DefragmentRequest{}) }, codes.OK},
		{"move the leader to nobody", func(s *server) reply { return call(s, &pb.MoveLeaderRequest{TargetID: 1}) }, codes.FailedPrecondition},
	} {
		p.compare(t, c.why, c.want, c.call)
	}
	for _, s := range p.both() {
		r := call(s, &pb.HashRequest{})
		if h, ok := r.message.(*pb.HashResponse); !ok || h.Header.GetRevision() != 16 {
			t.Errorf("%s: hash: %v", s.name, r)
		}
		one, two := invoke(t.Context(), s, &pb.HashKVRequest{}), invoke(t.Context(), s, &pb.HashKVRequest{})
		if one.code != codes.OK || one.message.(*pb.HashKVResponse).Hash != two.message.(*pb.HashKVResponse).Hash {
			t.Errorf("%s: the hash of one revision changes: %v %v", s.name, one, two)
		}
	}
	p.run(t, []step{{"nothing has changed", all(), nil}})
}

func TestDowngrade(t *testing.T) {
	p := newPair(t)
	for _, c := range []struct {
		why  string
		call func(*server) reply
		want codes.Code
	}{
		{"cancelling no downgrade is no error", func(s *server) reply { return call(s, &pb.DowngradeRequest{Action: pb.DowngradeRequest_CANCEL}) }, codes.OK},
		{"downgrade to no version", func(s *server) reply {
			return call(s, &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "nonsense"})
		}, codes.InvalidArgument},
		{"downgrade too far", func(s *server) reply {
			return call(s, &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.2.0"})
		}, codes.InvalidArgument},
	} {
		p.compare(t, c.why, c.want, c.call)
	}
}

// A snapshot is opaque, but tools check its shape: a multiple of 512 bytes, then its SHA-256.
func TestSnapshotStream(t *testing.T) {
	p := newPair(t)
	for i := range 40 {
		p.run(t, []step{{"fill", put(fmt.Sprint(i), strings.Repeat("v", 5000)), nil}})
	}
	for _, s := range p.both() {
		stream, err := pb.NewMaintenanceClient(s.Conn).Snapshot(t.Context(), &pb.SnapshotRequest{})
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		var whole []byte
		left := int64(-1)
		for {
			r, err := stream.Recv()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: after %d bytes: %v", s.name, len(whole), err)
			}
			if r.Header != nil || len(r.Blob) > 1<<20 {
				t.Errorf("%s: header %v, %d bytes in one blob", s.name, r.Header, len(r.Blob))
			}
			if left > 0 && int64(r.RemainingBytes) != left-int64(len(r.Blob)) {
				t.Errorf("%s: %d bytes left after %d and a blob of %d", s.name, r.RemainingBytes, left, len(r.Blob))
			}
			left = int64(r.RemainingBytes)
			whole = append(whole, r.Blob...)
		}
		if left != 0 || len(whole)%512 != sha256.Size {
			t.Fatalf("%s: %d bytes, %d left", s.name, len(whole), left)
		}
		payload, sum := whole[:len(whole)-sha256.Size], whole[len(whole)-sha256.Size:]
		if computed := sha256.Sum256(payload); len(payload) == 0 || !bytes.Equal(computed[:], sum) {
			t.Errorf("%s: the checksum of %d bytes is wrong", s.name, len(payload))
		}
	}
}

// byRole orders members by what they are: their ids, which order them otherwise, are arbitrary.
func byRole(members []*pb.Member) {
	slices.SortFunc(members, func(a, b *pb.Member) int {
		return strings.Compare(fmt.Sprint(a.IsLearner), fmt.Sprint(b.IsLearner))
	})
}

func TestMembers(t *testing.T) {
	p := newPair(t)
	shape := func(r reply) reply {
		var members []*pb.Member
		switch m := r.message.(type) {
		case *pb.MemberAddResponse:
			members = append(members, m.Member)
			members = append(members, m.Members...)
			byRole(m.Members)
		case *pb.MemberListResponse:
			members = m.Members
			byRole(members)
		case *pb.MemberRemoveResponse:
			members = m.Members
		}
		for _, m := range members {
			m.ID, m.ClientURLs = min(m.ID, 1), m.ClientURLs[:min(len(m.ClientURLs), 0)]
			for i, url := range m.PeerURLs {
				if !strings.HasSuffix(url, ":1") {
					m.PeerURLs[i] = "own"
				}
			}
		}
		return r
	}
	own := func(s *server) uint64 {
		r := invoke(t.Context(), s, &pb.MemberListRequest{})
		return r.message.(*pb.MemberListResponse).Header.MemberId
	}
	for _, c := range []struct {
		why  string
		call func(*server) reply
		want codes.Code
	}{
		{"list", func(s *server) reply { return call(s, &pb.MemberListRequest{Linearizable: true}) }, codes.OK},
		{"list, local", func(s *server) reply { return call(s, &pb.MemberListRequest{}) }, codes.OK},
		{"add without a URL", func(s *server) reply { return call(s, &pb.MemberAddRequest{}) }, codes.InvalidArgument},
		{"add with a bad one", func(s *server) reply { return call(s, &pb.MemberAddRequest{PeerURLs: []string{"nonsense"}}) }, codes.InvalidArgument},
		{"remove nobody", func(s *server) reply { return call(s, &pb.MemberRemoveRequest{ID: 12345}) }, codes.NotFound},
		{"update nobody", func(s *server) reply {
			return call(s, &pb.MemberUpdateRequest{ID: 12345, PeerURLs: []string{"http://127.0.0.1:1"}})
		}, codes.NotFound},
		{"promote nobody", func(s *server) reply { return call(s, &pb.MemberPromoteRequest{ID: 12345}) }, codes.NotFound},
		{"promote a voter", func(s *server) reply { return call(s, &pb.MemberPromoteRequest{ID: own(s)}) }, codes.FailedPrecondition},
		{"add a known URL", func(s *server) reply { return call(s, &pb.MemberAddRequest{PeerURLs: []string{s.PeerURL()}}) }, codes.FailedPrecondition},
		{"add a learner", func(s *server) reply {
			return call(s, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true})
		}, codes.OK},
		{"and another", func(s *server) reply {
			return call(s, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.2:1"}, IsLearner: true})
		}, codes.FailedPrecondition},
		{"promote it too early", func(s *server) reply {
			for _, m := range invoke(t.Context(), s, &pb.MemberListRequest{}).message.(*pb.MemberListResponse).Members {
				if m.IsLearner {
					return call(s, &pb.MemberPromoteRequest{ID: m.ID})
				}
			}
			return reply{text: "no learner"}
		}, codes.FailedPrecondition},
		{"the list has it", func(s *server) reply { return call(s, &pb.MemberListRequest{Linearizable: true}) }, codes.OK},
		{"it goes", func(s *server) reply {
			for _, m := range invoke(t.Context(), s, &pb.MemberListRequest{}).message.(*pb.MemberListResponse).Members {
				if m.IsLearner {
					return call(s, &pb.MemberRemoveRequest{ID: m.ID})
				}
			}
			return reply{text: "no learner"}
		}, codes.OK},
		{"writes go on", func(s *server) reply { return call(s, put("a", "1")) }, codes.OK},
	} {
		p.compare(t, c.why, c.want, func(s *server) reply { return shape(c.call(s)) })
	}
}
