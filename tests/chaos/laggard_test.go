package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"raft/tests/harness"
)

const (
	laggardBytes   = 1 << 20
	laggardRound   = 80 // puts between looks at the log
	laggardClients = 8
)

// oldestSegment is the name of the first file of a member's log.
func oldestSegment(m *harness.Member) string {
	segments, _ := filepath.Glob(filepath.Join(m.Data(), "log", "*.log")) // in order
	if len(segments) == 0 {
		return ""
	}
	return filepath.Base(segments[0])
}

// outgrow writes large values until the leader's log begins later than the one of `away` ends.
func outgrow(client *clientv3.Client, leader, away *harness.Member) error {
	ended, _ := filepath.Glob(filepath.Join(away.Data(), "log", "*.log"))
	last := filepath.Base(ended[len(ended)-1])
	value := strings.Repeat("0123456789abcdef", laggardBytes/16)
	for round := range 40 {
		var group sync.WaitGroup
		failures := make([]error, laggardClients)
		for worker := range laggardClients {
			group.Go(func() {
				for i := range laggardRound / laggardClients {
					key := fmt.Sprintf("large/%d/%d", worker, i)
					failures[worker] = errors.Join(failures[worker], write(client, key, value[round:]))
				}
			})
		}
		group.Wait()
		if err := errors.Join(failures...); err != nil {
			return err
		}
		if oldestSegment(leader) > last {
			return nil
		}
	}
	return fmt.Errorf("the log of %s still begins with %s", leader.Name, oldestSegment(leader))
}

// A member that was away for more than the log keeps is sent the tables, while it is killed and
// paused, and while clients write.
func TestLaggard(t *testing.T) {
	r := startCluster(t, seeded(t), 3)
	leader, _, err := r.cluster.Leader()
	if err != nil {
		t.Fatal(err)
	}
	away := r.any()
	for away == leader {
		away = r.any()
	}
	if err := away.Kill(); err != nil {
		t.Fatal(err)
	}
	client, err := open(r.cluster.Endpoints()...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	began := time.Now()
	if err := outgrow(client, leader, away); err != nil {
		t.Fatal(err)
	}
	t.Logf("the log was outgrown after %v", time.Since(began))
	load, err := newClusterLoad(r.cluster, &r.serial, "laggard")
	if err != nil {
		t.Fatal(err)
	}
	defer load.close()
	err = load.run(r.random, func() error {
		for range 3 { // it comes, and goes again in the middle
			if err := away.Launch(r.launchFlags()...); err != nil {
				return err
			}
			r.between(50*time.Millisecond, 800*time.Millisecond)
			if err := away.Kill(); err != nil {
				return err
			}
		}
		if err := away.Launch(r.launchFlags()...); err != nil {
			return err
		}
		r.between(50*time.Millisecond, 500*time.Millisecond)
		if err := away.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		r.between(50*time.Millisecond, 1500*time.Millisecond)
		if err := away.Signal(syscall.SIGCONT); err != nil {
			return err
		}
		return away.Ready(memberLimit)
	})
	if err == nil {
		err = load.settle()
	}
	if err = errors.Join(err, load.history.check(r.cluster.Dir), r.equal(), r.cluster.Ended()); err != nil {
		t.Fatal(err)
	}
	sent := int64(0)
	for _, m := range r.cluster.Members {
		sent += max(0, metric(m, "raft_snapshots_sent_total"))
	}
	if sent == 0 {
		t.Error("nobody sent tables: the log was not outgrown")
	}
	if left, _ := os.ReadDir(filepath.Join(away.Data(), "snap")); len(left) > 0 {
		t.Errorf("files are left in its snap/: %v", left)
	}
	known, unknown := load.history.counts()
	t.Logf("%d snapshots were begun; %d calls answered, %d writes not", sent, known, unknown)
}
