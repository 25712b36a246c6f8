package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"raft/tests/harness"
)

const memberLimit = 2 * time.Minute // until a member serves: it is not what is measured

// clusterRun is a cluster and what was done to it so far.
type clusterRun struct {
	cluster *harness.Cluster
	random  *rand.Rand
	flags   []string // of every start
	serial  atomic.Int64
	known   int
	unknown int
	done    map[string]int
}

// between sleeps for a random time of a range.
func (r *clusterRun) between(from, to time.Duration) {
	time.Sleep(from + time.Duration(r.random.Int64N(int64(to-from))))
}

func (r *clusterRun) launchFlags() []string {
	return append([]string{"--cores", fmt.Sprint(1 + r.random.IntN(2)), "--memory-limit", "134217728", "--log-level", "warn"},
		r.flags...)
}

func (r *clusterRun) any() *harness.Member {
	return r.cluster.Members[r.random.IntN(len(r.cluster.Members))]
}

// again launches members that were ended, and waits until they serve.
func (r *clusterRun) again(members ...*harness.Member) error {
	for _, m := range members {
		if err := m.Launch(r.launchFlags()...); err != nil {
			return err
		}
	}
	for _, m := range members {
		if err := m.Ready(memberLimit); err != nil {
			return err
		}
	}
	return nil
}

// killed ends members, waits, and starts them again.
func (r *clusterRun) killed(members ...*harness.Member) error {
	for _, m := range members {
		if err := m.Kill(); err != nil {
			return err
		}
	}
	r.between(0, 1200*time.Millisecond)
	return r.again(members...)
}

func (r *clusterRun) paused(members ...*harness.Member) error {
	if err := harness.Signal(syscall.SIGSTOP, members...); err != nil {
		return err
	}
	r.between(20*time.Millisecond, 2500*time.Millisecond) // shorter and longer than an election timeout
	return harness.Signal(syscall.SIGCONT, members...)
}

func (r *clusterRun) drained(m *harness.Member) error {
	if err := m.Stop(memberLimit); err != nil {
		return err
	}
	r.between(0, 600*time.Millisecond)
	return r.again(m)
}

type disturbance struct {
	name   string
	leader bool // aims at the leader
	do     func(r *clusterRun, leader *harness.Member) error
}

var disturbances = []disturbance{
	{"kill of the leader", true, func(r *clusterRun, leader *harness.Member) error { return r.killed(leader) }},
	{"kill of a member", false, func(r *clusterRun, _ *harness.Member) error { return r.killed(r.any()) }},
	{"pause of the leader", true, func(r *clusterRun, leader *harness.Member) error { return r.paused(leader) }},
	{"kill of all", false, func(r *clusterRun, _ *harness.Member) error { return r.killed(r.cluster.Members...) }},
	{"stop of the leader", true, func(r *clusterRun, leader *harness.Member) error { return r.drained(leader) }},
	{"pause of a member", false, func(r *clusterRun, _ *harness.Member) error { return r.paused(r.any()) }},
	{"kill of a majority", false, func(r *clusterRun, _ *harness.Member) error {
		spared := r.any()
		return r.killed(slices.DeleteFunc(slices.Clone(r.cluster.Members),
			func(m *harness.Member) bool { return m == spared })...)
	}},
	{"kill of the leader while another is paused", true, func(r *clusterRun, leader *harness.Member) error {
		other := r.any()
		for other == leader {
			other = r.any()
		}
		if err := harness.Signal(syscall.SIGSTOP, other); err != nil {
			return err
		}
		err := leader.Kill()
		r.between(0, 800*time.Millisecond)
		return errors.Join(err, harness.Signal(syscall.SIGCONT, other), r.again(leader))
	}},
}

// equal: every member has the same data at one revision.
func (r *clusterRun) equal() error {
	ctx, cancel := context.WithTimeout(context.Background(), settledLimit)
	defer cancel()
	now, err := pb.NewKVClient(r.cluster.Members[0].Conn).Range(ctx, &pb.RangeRequest{Key: []byte("x")})
	if err != nil {
		return err
	}
	hashes := map[string]uint32{}
	for _, m := range r.cluster.Members {
		for {
			reply, err := pb.NewMaintenanceClient(m.Conn).HashKV(ctx, &pb.HashKVRequest{Revision: now.Header.Revision})
			if err == nil {
				hashes[m.Name] = reply.Hash
				break
			}
			if !strings.Contains(err.Error(), "future revision") || ctx.Err() != nil {
				return fmt.Errorf("hash of %s: %w", m.Name, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if len(slices.Compact(slices.Sorted(maps.Values(hashes)))) != 1 {
		return fmt.Errorf("members differ at revision %d: %v", now.Header.Revision, hashes)
	}
	return nil
}

// round loads the cluster, disturbs it, and checks what clients saw.
func (r *clusterRun) round(i uint64, d disturbance) error {
	leader, _, err := r.cluster.Leader()
	if err != nil {
		return err
	}
	load, err := newClusterLoad(r.cluster, &r.serial, fmt.Sprintf("round/%d", i))
	if err != nil {
		return err
	}
	defer load.close()
	err = load.run(r.random, func() error {
		r.between(100*time.Millisecond, 600*time.Millisecond)
		if err := d.do(r, leader); err != nil {
			return err
		}
		r.between(100*time.Millisecond, 600*time.Millisecond)
		return nil
	})
	if err != nil {
		return err
	}
	if err := load.settle(); err != nil {
		return err
	}
	known, unknown := load.history.counts()
	r.known, r.unknown = r.known+known, r.unknown+unknown
	r.done[d.name]++
	return errors.Join(load.history.check(r.cluster.Dir), r.equal(), r.cluster.Ended())
}

// prepareCluster makes members in a new directory, which is left when the test fails.
func prepareCluster(t *testing.T, random *rand.Rand, count int, flags ...string) *clusterRun {
	t.Helper()
	bin, err := harness.Raftd()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := harness.WorkDir("chaos", "cluster-")
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := harness.NewCluster(bin, dir, count)
	if err != nil {
		t.Fatal(err)
	}
	r := &clusterRun{cluster: cluster, random: random, flags: flags, done: map[string]int{}}
	t.Cleanup(func() {
		cluster.Close()
		if !t.Failed() {
			os.RemoveAll(dir)
			return
		}
		t.Logf("files are left in %s", dir)
		for _, m := range cluster.Members {
			t.Logf("end of the log of %s:\n%s", m.Name, m.Tail(6))
		}
	})
	return r
}

func startCluster(t *testing.T, random *rand.Rand, count int) *clusterRun {
	t.Helper()
	r := prepareCluster(t, random, count)
	if err := r.again(r.cluster.Members...); err != nil {
		t.Fatal(err)
	}
	return r
}

func seeded(t *testing.T) *rand.Rand {
	seed := number("SEED", uint64(time.Now().UnixNano()))
	t.Logf("SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// Members are killed, paused and stopped under load; clients see one copy of the data throughout.
func TestCluster(t *testing.T) {
	rounds := number("ROUNDS", uint64(len(disturbances)))
	r := startCluster(t, seeded(t), 3)
	for i := range rounds {
		d := disturbances[i%uint64(len(disturbances))]
		began := time.Now()
		if err := r.round(i, d); err != nil {
			t.Fatalf("round %d, %s: %v", i+1, d.name, err)
		}
		if testing.Verbose() && rounds > 20 && i%20 == 19 {
			t.Logf("round %d: %d calls answered, %d writes not, this one took %v", i+1, r.known, r.unknown, time.Since(began))
		}
	}
	t.Logf("%d rounds: %d calls answered, %d writes not; %v", rounds, r.known, r.unknown, r.done)
}

// Five members lose two at once, and more.
func TestFiveMembers(t *testing.T) {
	r := startCluster(t, seeded(t), 5)
	another := func(leader *harness.Member) *harness.Member {
		m := r.any()
		for m == leader {
			m = r.any()
		}
		return m
	}
	rounds := []disturbance{
		{"kill of the leader and another", true, func(r *clusterRun, leader *harness.Member) error {
			return r.killed(leader, another(leader))
		}},
		{"pause of the leader and another", true, func(r *clusterRun, leader *harness.Member) error {
			return r.paused(leader, another(leader))
		}},
		{"kill of all but one", false, disturbances[6].do},
	}
	for i, d := range rounds {
		if err := r.round(uint64(i), d); err != nil {
			t.Fatalf("%s: %v", d.name, err)
		}
	}
	t.Logf("%d calls answered, %d writes not; %v", r.known, r.unknown, r.done)
}
