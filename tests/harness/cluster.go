package harness

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	statusLimit = time.Second
	leaderLimit = 30 * time.Second
)

// Cluster is a group of members that began together, and those that were added since.
type Cluster struct {
	Bin, Dir string
	Members  []*Member
	Flags    []string // of every member
	made     int
}

// NewCluster prepares `count` members on loopback, named n1, n2 and so on.
func NewCluster(bin, dir string, count int, flags ...string) (*Cluster, error) {
	c := &Cluster{Bin: bin, Dir: dir, Flags: flags}
	for range count {
		if _, err := c.prepare(); err != nil {
			return nil, err
		}
	}
	c.Introduce()
	return c, nil
}

func (c *Cluster) prepare() (*Member, error) {
	c.made++
	name := fmt.Sprintf("n%d", c.made)
	m, err := NewMember(name, c.Bin, filepath.Join(c.Dir, name))
	if err != nil {
		return nil, err
	}
	m.Flags = c.Flags
	c.Members = append(c.Members, m)
	return m, nil
}

// Introduce tells each member the others' addresses: again after these were changed by hand.
func (c *Cluster) Introduce() {
	for _, m := range c.Members {
		m.Initial = c.initial()
	}
}

func (c *Cluster) initial() string {
	var all []string
	for _, m := range c.Members {
		all = append(all, m.Name+"="+m.PeerURL())
	}
	return strings.Join(all, ",")
}

// Start launches every member that does not run, and waits until all serve.
func (c *Cluster) Start(limit time.Duration) error {
	for _, m := range c.Members {
		if !m.Running() {
			if err := m.Launch(); err != nil {
				return err
			}
		}
	}
	for _, m := range c.Members {
		if err := m.Ready(limit); err != nil {
			return err
		}
	}
	return nil
}

// Close kills what runs, paused or not.
func (c *Cluster) Close() {
	for _, m := range c.Members {
		if m.Running() {
			_ = m.Kill()
		}
		m.Close()
	}
}

// Ended names members whose process ended although nobody ended it.
func (c *Cluster) Ended() error {
	for _, m := range c.Members {
		if m.cmd != nil && !m.Running() {
			return fmt.Errorf("%s ended by itself, exit code %d:\n%s", m.Name, m.ExitCode(), m.Tail(15))
		}
	}
	return nil
}

func (c *Cluster) Endpoints() []string {
	var all []string
	for _, m := range c.Members {
		all = append(all, m.Client)
	}
	return all
}

// Leader is the member that leads in the highest term that anybody knows of, as it says itself.
func (c *Cluster) Leader() (*Member, *pb.StatusResponse, error) {
	var problem error
	for deadline := time.Now().Add(leaderLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var best *Member
		var bestStatus *pb.StatusResponse
		for _, m := range c.Members {
			if !m.Running() {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), statusLimit)
			s, err := m.Status(ctx)
			cancel()
			if err != nil {
				problem = err
			} else if s.Leader == s.Header.MemberId && (best == nil || s.RaftTerm > bestStatus.RaftTerm) {
				best, bestStatus = m, s
			}
		}
		if best != nil {
			return best, bestStatus, nil
		}
	}
	return nil, nil, fmt.Errorf("no leader after %v: %v", leaderLimit, problem)
}

// Signal sends it to every member given.
func Signal(signal syscall.Signal, members ...*Member) error {
	for _, m := range members {
		if err := m.Signal(signal); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
	}
	return nil
}

// Prepare makes room for one more member, which is to be added to the running cluster and launched.
func (c *Cluster) Prepare() (*Member, error) {
	m, err := c.prepare()
	if err == nil {
		m.Initial, m.State = c.initial(), "existing"
	}
	return m, err
}

// Add asks `through` to add a prepared member, and launches it. An error: try again.
func (c *Cluster) Add(ctx context.Context, m, through *Member, learner bool) (id uint64, err error) {
	cluster := pb.NewClusterClient(through.Conn)
	reply, err := cluster.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{m.PeerURL()}, IsLearner: learner})
	if err == nil {
		return reply.Member.ID, m.Launch()
	}
	list, _ := cluster.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	for _, other := range list.GetMembers() { // only the answer was lost
		if slices.Contains(other.PeerURLs, m.PeerURL()) {
			return other.ID, m.Launch()
		}
	}
	return 0, err
}

// Forget leaves a member out from now on; its process is not touched.
func (c *Cluster) Forget(m *Member) {
	c.Members = slices.DeleteFunc(c.Members, func(other *Member) bool { return other == m })
}
