package chaos

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"raft/tests/harness"
)

// recovery is a cluster of three that holds numbered keys.
type recovery struct {
	t       *testing.T
	cluster *harness.Cluster
	keys    int
}

func newRecovery(t *testing.T, flags ...string) *recovery {
	t.Helper()
	bin, err := harness.Raftd()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := harness.WorkDir("chaos", "recovery-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			os.RemoveAll(dir)
		}
	})
	flags = append(flags, "--cores", "1", "--memory-limit", "134217728", "--log-level", "warn")
	c, err := harness.NewCluster(bin, dir, 3, flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	r := &recovery{t: t, cluster: c}
	r.must(c.Start(memberLimit))
	return r
}

func (r *recovery) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// write puts the next keys through a member, each acknowledged.
func (r *recovery) write(m *harness.Member, count int) {
	r.t.Helper()
	for range count {
		key := fmt.Appendf(nil, "key%06d", r.keys)
		r.must(until("a put", func(ctx context.Context) error {
			_, err := pb.NewKVClient(m.Conn).Put(ctx, &pb.PutRequest{Key: key, Value: key})
			return err
		}))
		r.keys++
	}
}

// holds fails unless the member has every key that was acknowledged.
func (r *recovery) holds(m *harness.Member) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), memberLimit)
	defer cancel()
	got, err := pb.NewKVClient(m.Conn).Range(ctx, &pb.RangeRequest{Key: []byte("key"), RangeEnd: []byte("kez")})
	r.must(err)
	if len(got.Kvs) != r.keys {
		r.t.Fatalf("%s holds %d of %d keys", m.Name, len(got.Kvs), r.keys)
	}
	for i, kv := range got.Kvs {
		if want := fmt.Sprintf("key%06d", i); string(kv.Key) != want || string(kv.Value) != want {
			r.t.Fatalf("%s: key %d is %q = %q", m.Name, i, kv.Key, kv.Value)
		}
	}
}

func (r *recovery) members(m *harness.Member) []*pb.Member {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), memberLimit)
	defer cancel()
	list, err := pb.NewClusterClient(m.Conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	r.must(err)
	return list.Members
}

func (r *recovery) grows(through *harness.Member) *harness.Member {
	r.t.Helper()
	added, err := r.cluster.Prepare()
	r.must(err)
	r.must(until("adding a member", func(ctx context.Context) error {
		_, err := r.cluster.Add(ctx, added, through, false)
		return err
	}))
	r.must(added.Ready(memberLimit))
	return added
}

func (r *recovery) removes(through *harness.Member, id uint64) {
	r.t.Helper()
	r.must(until("removing a member", func(ctx context.Context) error {
		_, err := pb.NewClusterClient(through.Conn).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
		if status.Code(err) == codes.NotFound { // only the answer was lost
			return nil
		}
		return err
	}))
}

// ends waits until a process has ended by itself, and gives what it said.
func (r *recovery) ends(m *harness.Member) string {
	r.t.Helper()
	select {
	case <-m.Exited():
	case <-time.After(memberLimit):
		r.t.Fatalf("%s still runs:\n%s", m.Name, m.Tail(15))
	}
	return m.Output()
}

// Two of three are gone for good: the third goes on alone, with everything, and grows again.
func TestForceNewCluster(t *testing.T) {
	r := newRecovery(t)
	m := slices.Clone(r.cluster.Members)
	r.write(m[0], 100)
	follower := m[0]
	if leader, _, err := r.cluster.Leader(); err != nil {
		t.Fatal(err)
	} else if leader == follower {
		follower = m[1]
	}
	r.holds(follower) // a linearizable read: it has them all
	for _, one := range m {
		r.must(one.Kill())
	}

	// Killed as it starts, at any moment, it can be started again, with the flag until it serves.
	for i := range 12 {
		r.must(follower.Launch("--force-new-cluster"))
		time.Sleep(time.Duration(i*i) * time.Millisecond)
		if follower.Running() {
			r.must(follower.Kill())
		}
	}
	r.must(follower.Launch("--force-new-cluster"))
	r.must(follower.Ready(memberLimit))
	r.holds(follower)
	if list := r.members(follower); len(list) != 1 || list[0].Name != follower.Name || list[0].IsLearner {
		t.Fatalf("members: %v", list)
	}
	r.write(follower, 100)

	// Those that were left behind are refused, and end.
	for _, other := range m {
		if other == follower {
			continue
		}
		r.must(other.Launch())
		if text := r.ends(other); !strings.Contains(text, "permanently removed") {
			t.Errorf("%s does not say why it ended:\n%s", other.Name, text)
		}
		r.cluster.Forget(other)
	}

	// Without the flag it stays what it became, and takes new members.
	r.must(follower.Kill())
	r.must(follower.Launch())
	r.must(follower.Ready(memberLimit))
	r.holds(follower)
	for range 2 {
		r.holds(r.grows(follower))
	}
	if list := r.members(follower); len(list) != 3 {
		t.Errorf("members: %v", list)
	}
	r.write(follower, 20)
}

// A directory without a member is not taken for one.
func TestForceNewClusterOfNothing(t *testing.T) {
	r := newRecovery(t)
	m := r.cluster.Members[2]
	r.must(m.Kill())
	r.must(os.RemoveAll(m.Data()))
	r.must(m.Launch("--force-new-cluster"))
	if text := r.ends(m); !strings.Contains(text, "holds no member") {
		t.Errorf("it says:\n%s", text)
	}
	r.cluster.Forget(m)
}

// A member whose disk was emptied may have voted and acknowledged before: the others do not let it in
// under its old id, and none of them loses what was acknowledged.
func TestEmptiedDirectory(t *testing.T) {
	r := newRecovery(t)
	m := slices.Clone(r.cluster.Members)
	r.write(m[0], 50)
	leader, led, err := r.cluster.Leader()
	r.must(err)
	wiped, other := m[0], m[1]
	if wiped == leader {
		wiped = m[2]
	}
	if other == leader || other == wiped {
		other = m[2]
	}
	if other == leader || other == wiped {
		other = m[0]
	}
	r.must(wiped.Kill())
	r.must(os.RemoveAll(wiped.Data()))

	for _, state := range []string{"new", "existing"} {
		wiped.State = state
		r.must(wiped.Launch())
		if text := r.ends(wiped); !strings.Contains(text, "already been bootstrapped") {
			t.Errorf("state %s: it does not say why it ended:\n%s", state, text)
		}
	}

	// The leader goes too: a vote of the emptied one would elect, so it must give none.
	r.write(other, 50)
	r.must(leader.Kill())
	wiped.State = "new"
	r.must(wiped.Launch())
	r.ends(wiped)
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	now, err := other.Status(ctx)
	cancel()
	if err == nil && now.Leader != 0 && now.Leader != led.Header.MemberId {
		t.Errorf("%s elected %x with the vote of a member that forgot", other.Name, now.Leader)
	}

	// Removed and added again, empty, it is a new member.
	r.must(leader.Launch())
	r.must(leader.Ready(memberLimit))
	r.holds(leader)
	for _, known := range r.members(leader) {
		if known.Name == wiped.Name {
			r.removes(leader, known.ID)
		}
	}
	r.cluster.Forget(wiped)
	r.holds(r.grows(leader))
}

// With the check, members that were connected for less than five seconds are too new to be counted.
func TestNoStrictReconfigCheck(t *testing.T) {
	r := newRecovery(t, "--strict-reconfig-check=false")
	added, err := r.cluster.Prepare()
	r.must(err)
	r.must(until("adding a member", func(ctx context.Context) error {
		_, err := r.cluster.Add(ctx, added, r.cluster.Members[0], false)
		if err != nil && strings.Contains(err.Error(), "unhealthy") {
			t.Fatal(err)
		}
		return err
	}))
	r.must(added.Ready(memberLimit))
}
