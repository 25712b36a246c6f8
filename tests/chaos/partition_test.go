package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"raft/tests/harness"
)

// apart runs the test again where it may build networks; true in that process.
func apart(t *testing.T) bool {
	t.Helper()
	if harness.IsApart() {
		return true
	}
	if missing := harness.NetworkMissing(); missing != "" {
		t.Skipf("SKIPPED, nothing was tested: %s", missing)
	}
	again := harness.Apart("-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60m")
	out, err := again.CombinedOutput()
	t.Logf("in a network namespace:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

// wire is a cluster whose members are on a network of its own.
func wire(t *testing.T, random *rand.Rand, flags ...string) (*clusterRun, *harness.Network) {
	t.Helper()
	r := prepareCluster(t, random, 3, flags...)
	network, err := harness.NewNetwork(r.cluster)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(network.Close)
	if err := r.again(r.cluster.Members...); err != nil {
		t.Fatal(err)
	}
	return r, network
}

// partition cuts; `majority` are members who can then still serve, nil when there are none.
type partition struct {
	name string
	cut  func(n *harness.Network, leader, one, other int) (majority []int, err error)
}

func cuts(n *harness.Network, pairs ...[2]int) error {
	for _, pair := range pairs {
		if err := n.Cut(pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

var partitions = []partition{
	{"the leader is isolated", func(n *harness.Network, leader, one, other int) ([]int, error) {
		return []int{one, other}, n.Isolate(leader)
	}},
	{"a follower is isolated", func(n *harness.Network, leader, one, other int) ([]int, error) {
		return []int{leader, other}, n.Isolate(one)
	}},
	{"the leader hears nobody", func(n *harness.Network, leader, one, other int) ([]int, error) {
		return []int{one, other}, cuts(n, [2]int{one, leader}, [2]int{other, leader})
	}},
	{"nobody hears the leader", func(n *harness.Network, leader, one, other int) ([]int, error) {
		return []int{one, other}, cuts(n, [2]int{leader, one}, [2]int{leader, other})
	}},
	{"the leader is isolated, from clients as well", func(n *harness.Network, leader, one, other int) ([]int, error) {
		if err := n.Isolate(leader); err != nil {
			return nil, err
		}
		return []int{one, other}, cuts(n, [2]int{leader, harness.Outside}, [2]int{harness.Outside, leader})
	}},
	{"leader and a follower do not hear each other", func(n *harness.Network, leader, one, other int) ([]int, error) {
		return []int{other}, cuts(n, [2]int{leader, one}, [2]int{one, leader})
	}},
	{"a follower does not hear the leader", func(n *harness.Network, leader, one, other int) ([]int, error) {
		return []int{leader, other}, cuts(n, [2]int{leader, one})
	}},
	{"the leader does not hear a follower", func(n *harness.Network, leader, one, other int) ([]int, error) {
		return []int{leader, other}, cuts(n, [2]int{one, leader})
	}},
	{"everybody is isolated", func(n *harness.Network, leader, one, other int) ([]int, error) {
		if err := n.Isolate(leader); err != nil {
			return nil, err
		}
		return nil, n.Isolate(one)
	}},
}

// served waits until a client of these members could write, each by itself.
func (r *clusterRun) served(members []int) error {
	for _, i := range members {
		m := r.cluster.Members[i]
		client, err := open(m.Client)
		if err != nil {
			return err
		}
		defer client.Close()
		for deadline := time.Now().Add(settledLimit); ; {
			ctx, cancel := context.WithTimeout(context.Background(), callLimit)
			_, err := client.Put(ctx, "served", "")
			cancel()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s belongs to a majority and does not serve after %v: %w", m.Name, settledLimit, err)
			}
		}
	}
	return nil
}

func (r *clusterRun) parted(network *harness.Network, p partition, leader *harness.Member) error {
	first := slices.Index(r.cluster.Members, leader)
	others := []int{(first + 1) % 3, (first + 2) % 3}
	r.random.Shuffle(2, func(i, j int) { others[i], others[j] = others[j], others[i] })
	majority, err := p.cut(network, first, others[0], others[1])
	if err != nil {
		return err
	}
	r.between(50*time.Millisecond, 3*time.Second)
	if err := r.served(majority); err != nil {
		return err
	}
	return network.Heal()
}

// Members lose each other under load; majorities serve, and clients see one copy of the data.
func TestPartitions(t *testing.T) {
	if !apart(t) {
		return
	}
	rounds := number("ROUNDS", uint64(len(partitions)))
	r, network := wire(t, seeded(t))
	for i := range rounds {
		p := partitions[i%uint64(len(partitions))]
		d := disturbance{p.name, true, func(r *clusterRun, leader *harness.Member) error {
			return r.parted(network, p, leader)
		}}
		if err := r.round(i, d); err != nil {
			t.Fatalf("round %d, %s: %v", i+1, d.name, err)
		}
	}
	t.Logf("%d rounds: %d calls answered, %d writes not; %v", rounds, r.known, r.unknown, r.done)
}

// campaigns counts those of each member that were more than a question.
func campaigns(r *clusterRun) []int64 {
	var all []int64
	for _, m := range r.cluster.Members {
		all = append(all, metric(m, `raft_elections_total{kind="vote"}`))
	}
	return all
}

// A follower that was cut off for a while comes back without a new term and without a new leader. On
// a machine that stands still for longer than an election timeout others may campaign meanwhile; it
// never does.
func TestIsolatedFollower(t *testing.T) {
	if !apart(t) {
		return
	}
	away := time.Duration(number("ISOLATION", 5)) * time.Second
	r, network := wire(t, seeded(t), "--election-timeout", "2000")
	leader, before, err := r.cluster.Leader()
	if err != nil {
		t.Fatal(err)
	}
	lost := slices.IndexFunc(r.cluster.Members, func(m *harness.Member) bool { return m != leader })
	client, err := open(slices.Delete(r.cluster.Endpoints(), lost, lost+1)...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	campaigned := campaigns(r)
	if err := network.Isolate(lost); err != nil {
		t.Fatal(err)
	}
	writes := 0
	for until := time.Now().Add(away); time.Now().Before(until); {
		if err := write(client, fmt.Sprint("k", writes%100), strings.Repeat("v", 1000)); err != nil {
			t.Fatalf("with one follower away: %v", err)
		}
		writes++
	}
	behind, err := memberStatus(r.cluster.Members[lost])
	ahead, leaderErr := memberStatus(leader)
	if err != nil || leaderErr != nil || behind.RaftAppliedIndex+uint64(writes) > ahead.RaftAppliedIndex {
		t.Fatalf("it was not cut off: %v %v, the leader %v %v", behind, err, ahead, leaderErr)
	}
	if err := network.Heal(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(settledLimit); ; time.Sleep(20 * time.Millisecond) {
		ours, err := memberStatus(r.cluster.Members[lost])
		theirs, leaderErr := memberStatus(leader)
		if err == nil && leaderErr == nil && ours.RaftAppliedIndex >= theirs.RaftAppliedIndex {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not catch up: %v %v, %v %v", r.cluster.Members[lost].Name, ours, err, theirs, leaderErr)
		}
	}
	now := campaigns(r)
	if now[lost] != campaigned[lost] {
		t.Errorf("%s began %d campaigns and had begun %d", r.cluster.Members[lost].Name, now[lost], campaigned[lost])
	}
	if !slices.Equal(now, campaigned) {
		t.Logf("the machine stood still: members began %v campaigns and had begun %v; terms are not compared", now, campaigned)
		return
	}
	for _, m := range r.cluster.Members {
		s, err := memberStatus(m)
		if err != nil || s.RaftTerm != before.RaftTerm || s.Leader != before.Leader {
			t.Errorf("%s: %v %v; before it was term %d, leader %x", m.Name, s, err, before.RaftTerm, before.Leader)
		}
	}
	t.Logf("away for %v, %d writes meanwhile; term %d stayed", away, writes, before.RaftTerm)
}

// write puts, as often as it takes, for a while.
func write(client *clientv3.Client, key, value string) error {
	for deadline := time.Now().Add(settledLimit); ; {
		ctx, cancel := context.WithTimeout(context.Background(), callLimit)
		_, err := client.Put(ctx, key, value)
		cancel()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func memberStatus(m *harness.Member) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callLimit)
	defer cancel()
	s, err := m.Status(ctx)
	return (*clientv3.StatusResponse)(s), err
}
