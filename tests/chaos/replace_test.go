package chaos

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"raft/tests/harness"
)

// until tries again what fails for the moment, for a while.
func until(what string, try func(context.Context) error) error {
	for deadline := time.Now().Add(settledLimit); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := try(ctx)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

func members(ctx context.Context, through *harness.Member) ([]*pb.Member, error) {
	list, err := pb.NewClusterClient(through.Conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	return list.GetMembers(), err
}

func identity(ctx context.Context, through, m *harness.Member) (uint64, error) {
	all, err := members(ctx, through)
	for _, other := range all {
		if slices.Contains(other.PeerURLs, m.PeerURL()) {
			return other.ID, nil
		}
	}
	return 0, errors.Join(err, fmt.Errorf("%s is no member", m.Name))
}

// replaced adds a member as a learner, promotes it when it has caught up, and removes `old`.
func (r *clusterRun) replaced(old *harness.Member) error {
	c := r.cluster
	through := c.Members[(slices.Index(c.Members, old)+1)%len(c.Members)]
	c.Flags = r.launchFlags()
	added, err := c.Prepare()
	if err != nil {
		return err
	}
	var id uint64
	err = until("adding a learner", func(ctx context.Context) (err error) {
		id, err = c.Add(ctx, added, through, true)
		return err
	})
	if err != nil {
		return err
	}
	cluster := pb.NewClusterClient(through.Conn)
	err = until("promoting "+added.Name, func(ctx context.Context) error {
		if err := c.Ended(); err != nil {
			return err
		}
		_, err := cluster.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: id})
		if all, listErr := members(ctx, through); err != nil && listErr == nil { // its answer may have been lost
			for _, m := range all {
				if m.ID == id && !m.IsLearner {
					return nil
				}
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := added.Ready(memberLimit); err != nil {
		return err
	}
	err = until("removing "+old.Name, func(ctx context.Context) error {
		id, err := identity(ctx, through, old)
		if id == 0 && err != nil {
			all, listErr := members(ctx, through)
			if listErr == nil && len(all) == len(c.Members)-1 { // its answer was lost
				return nil
			}
			return err
		}
		_, err = cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
		return err
	})
	if err != nil {
		return err
	}
	c.Forget(old)
	defer old.Close()
	select {
	case <-old.Exited():
		return nil
	case <-time.After(settledLimit):
		return fmt.Errorf("%s was removed and does not end:\n%s", old.Name, old.Tail(10))
	}
}

// Each member of a cluster is replaced by a new one, under load; a client that follows the list of
// members and tries again notices nothing.
func TestReplaceAll(t *testing.T) {
	r := startCluster(t, seeded(t), 3)
	client, err := openSynced(200*time.Millisecond, r.cluster.Endpoints()...)
	if err != nil {
		t.Fatal(err)
	}
	load := &clusterLoad{history: newHistory(), serial: &r.serial, prefix: "replace",
		clients: []*clientv3.Client{client}, names: []string{"all"}, patient: settledLimit}
	defer load.close()
	first := slices.Clone(r.cluster.Members)
	err = load.run(r.random, func() error {
		for _, i := range r.random.Perm(len(first)) {
			r.between(100*time.Millisecond, 500*time.Millisecond)
			if err := r.replaced(first[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = load.settle()
	}
	if err = errors.Join(err, load.history.check(r.cluster.Dir), r.equal(), r.cluster.Ended()); err != nil {
		t.Fatal(err)
	}
	known, unknown := load.history.counts()
	t.Logf("three members were replaced; %d calls answered, %d writes not", known, unknown)
}
