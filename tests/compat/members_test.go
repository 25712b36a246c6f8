package compat

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"raft/tests/harness"
)

const settleTimeout = time.Minute

// group is three members of one system, and what their identities are called in comparisons.
type group struct {
	*harness.Cluster
	system string
	leads  *harness.Member // when it was asked for last
	names  map[string]string
}

func newGroup(t *testing.T, system, bin string) *group {
	t.Helper()
	dir, err := harness.WorkDir("compat", system+"-")
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := harness.NewCluster(bin, dir, 3)
	if err != nil {
		t.Fatal(err)
	}
	g := &group{Cluster: cluster, system: system, names: map[string]string{}}
	t.Cleanup(func() {
		cluster.Close()
		if t.Failed() && system == "raftd" {
			for _, m := range cluster.Members {
				t.Logf("end of the log of %s:\n%s", m.Name, m.Tail(5))
			}
		}
		os.RemoveAll(dir)
	})
	if err := cluster.Start(settleTimeout); err != nil {
		t.Fatal(err)
	}
	return g
}

// learn finds the leader, and remembers the id of every member that there is.
func (g *group) learn(t *testing.T) {
	t.Helper()
	leader, status, err := g.Leader()
	if err != nil {
		t.Fatal(err)
	}
	g.leads = leader
	list, err := pb.NewClusterClient(leader.Conn).MemberList(context.Background(), &pb.MemberListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	g.names[fmt.Sprintf("%x", status.Header.ClusterId)] = "CLUSTER"
	for _, m := range list.Members {
		for _, known := range g.Members {
			if slices.Contains(m.PeerURLs, known.PeerURL()) {
				g.names[fmt.Sprintf("%x", m.ID)] = "ID-" + known.Name
			}
		}
	}
}

// id of a member, in hexadecimal digits; it may be none any more.
func (g *group) id(m *harness.Member) string {
	for id, name := range g.names {
		if name == "ID-"+m.Name {
			return id
		}
	}
	return "123456789abcdef"
}

func (g *group) follower() *harness.Member {
	return g.Members[slices.IndexFunc(g.Members, func(m *harness.Member) bool { return m != g.leads })]
}

func (g *group) last() *harness.Member { return g.Members[len(g.Members)-1] }

var took = regexp.MustCompile(`took = [^\s]+`)

// etcdctl prints ids 16 wide: spaces stand for leading zeros.
var padding = regexp.MustCompile(` +(CLUSTER|ID-)`)

// plain gives every identity its name, and lines that come in any order one order.
func (g *group) plain(p printed) printed {
	rename := func(text string) string {
		for id, name := range g.names {
			text = strings.ReplaceAll(text, id, name)
		}
		text = padding.ReplaceAllString(text, " $1")
		for _, m := range g.Members {
			text = strings.ReplaceAll(text, m.Client, "CLIENT-"+m.Name)
			text = strings.ReplaceAll(text, m.Peer, "PEER-"+m.Name)
		}
		lines := strings.Split(took.ReplaceAllString(text, "took"), "\n")
		for i, line := range lines {
			if name, list, is := strings.Cut(line, "ETCD_INITIAL_CLUSTER=\""); is {
				members := strings.Split(strings.TrimSuffix(list, `"`), ",")
				slices.Sort(members)
				lines[i] = name + "ETCD_INITIAL_CLUSTER=" + strings.Join(members, ",")
			}
		}
		slices.Sort(lines)
		return strings.Join(lines, "\n")
	}
	return printed{stdout: rename(p.stdout), stderr: rename(p.stderr), exit: p.exit}
}

// groupCommand is an etcdctl call whose arguments depend on the cluster.
type groupCommand struct {
	why     string
	args    func(g *group) []string
	at      func(g *group) []string // endpoints; all when absent
	shape   bool
	until   bool // it succeeds in the end
	settles bool // etcdctl 3.4 asks a member for what it knows, which may lag
	before  func(g *group) error
	after   func(g *group) error
}

func (c *groupCommand) run(t *testing.T, bin string, g *group) printed {
	t.Helper()
	if c.before != nil {
		if err := c.before(g); err != nil {
			t.Fatalf("%s: %s: %v", g.system, c.why, err)
		}
	}
	g.learn(t)
	endpoints := g.Endpoints()
	if c.at != nil {
		endpoints = c.at(g)
	}
	asked := &server{Member: &harness.Member{Client: strings.Join(endpoints, ",")}}
	var p printed
	for deadline := time.Now().Add(settleTimeout); ; time.Sleep(100 * time.Millisecond) {
		p = etcdctl(bin, asked, command{args: c.args(g)})
		if !c.until || p.exit == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s: %v", g.system, c.why, p)
		}
	}
	g.learn(t)
	plain := g.plain(p)
	if c.after != nil {
		if err := c.after(g); err != nil {
			t.Fatalf("%s: %s: %v", g.system, c.why, err)
		}
	}
	return plain
}

func fixed(args ...string) func(*group) []string { return func(*group) []string { return args } }

func prepare(g *group) error {
	_, err := g.Prepare()
	return err
}

func forget(g *group) error {
	m := g.last()
	g.Forget(m)
	return nil
}

func gone(g *group) error {
	m := g.last()
	select {
	case <-m.Exited():
		return forget(g)
	case <-time.After(settleTimeout):
		return fmt.Errorf("%s was removed and does not end:\n%s", m.Name, m.Tail(8))
	}
}

func groupCommands() []groupCommand {
	leader := func(g *group) []string { return []string{g.leads.Client} }
	list := groupCommand{why: "list", args: fixed("member", "list"), settles: true}
	add := func(more ...string) func(*group) []string {
		return func(g *group) []string {
			return append([]string{"member", "add", g.last().Name, "--peer-urls", g.last().PeerURL()}, more...)
		}
	}
	last := func(words ...string) func(*group) []string {
		return func(g *group) []string { return append([]string{"member", words[0], g.id(g.last())}, words[1:]...) }
	}
	remaining := func(g *group) []string { return g.Endpoints()[:3] }
	return []groupCommand{
		list,
		{why: "put", args: fixed("put", "a", "1")},
		{why: "get", args: fixed("get", "a")},
		{why: "list as JSON", args: fixed("member", "list", "-w", "json"), shape: true},
		{why: "health of all", args: fixed("endpoint", "health", "--cluster")},
		{why: "health as JSON", args: fixed("endpoint", "health", "--cluster", "-w", "json"), shape: true},
		{why: "status of all", args: fixed("endpoint", "status", "--cluster", "-w", "json"), shape: true},
		{why: "hashes of all", args: fixed("endpoint", "hashkv", "--cluster", "-w", "json"), shape: true},
		{why: "move the leader, asked of a follower", args: func(g *group) []string {
			return []string{"move-leader", g.id(g.follower())}
		}, at: func(g *group) []string { return []string{g.follower().Client} }, shape: true},
		{why: "move the leader to nobody", args: fixed("move-leader", "123456789abcdef"), at: leader, shape: true},
		{why: "move the leader", args: func(g *group) []string { return []string{"move-leader", g.id(g.follower())} }, shape: true},
		{why: "add a learner", args: add("--learner"), before: prepare, until: true},
		list,
		{why: "promote it before it started", args: last("promote"), at: remaining},
		{why: "move the leader to a learner", args: func(g *group) []string { return []string{"move-leader", g.id(g.last())} }, at: leader, shape: true},
		{why: "promote it", args: last("promote"), at: remaining, until: true, before: func(g *group) error { return g.last().Launch() }},
		{why: "promote it again", args: last("promote")},
		{why: "it is a member", args: fixed("member", "list"), before: func(g *group) error { return g.last().Ready(settleTimeout) }},
		{why: "status of four", args: fixed("endpoint", "status", "--cluster", "-w", "json"), shape: true},
		{why: "update", args: func(g *group) []string {
			return []string{"member", "update", g.id(g.last()), "--peer-urls", g.last().PeerURL() + ",http://127.0.0.1:1"}
		}},
		list,
		{why: "update to another's address", args: func(g *group) []string {
			return []string{"member", "update", g.id(g.last()), "--peer-urls", g.Members[0].PeerURL()}
		}},
		{why: "remove it", args: last("remove"), at: remaining, after: gone, until: true},
		list,
		{why: "remove nobody", args: fixed("member", "remove", "123456789abcdef")},
		{why: "add a voter that never starts", args: add(), before: prepare, until: true},
		list,
		{why: "remove it, too", args: last("remove"), at: remaining, after: forget, until: true},
		{why: "health in the end", args: fixed("endpoint", "health", "--cluster")},
		{why: "get in the end", args: fixed("get", "a", "-w", "fields")},
	}
}

// Commands about members go to three of each system; names stand for ids and addresses.
func TestClusterCommands(t *testing.T) {
	raftd, stock := program(t, "RAFTD", "build/release/bin/raftd"), program(t, "PEER", "build/peers/etcd")
	for name, bin := range map[string]string{"etcdctl": program(t, "ETCDCTL", "build/peers/etcdctl"),
		"old": program(t, "ETCDCTL_OLD", "/usr/bin/etcdctl")} {
		t.Run(name, func(t *testing.T) {
			peer, subject := newGroup(t, "etcd", stock), newGroup(t, "raftd", raftd)
			for _, c := range groupCommands() {
				want, got := c.run(t, bin, peer), c.run(t, bin, subject)
				for tries := 0; c.settles && tries < 50 && !alike(want, got, c.shape); tries++ {
					time.Sleep(100 * time.Millisecond)
					want, got = c.run(t, bin, peer), c.run(t, bin, subject)
				}
				if !alike(want, got, c.shape) {
					t.Errorf("%s\n etcd exit %d\n%s%s\nraftd exit %d\n%s%s", c.why, want.exit, want.stdout, want.stderr,
						got.exit, got.stdout, got.stderr)
				}
			}
		})
	}
}

func alike(want, got printed, shape bool) bool {
	return want.exit == got.exit && comparableError(want, shape) == comparableError(got, shape) &&
		reflect.DeepEqual(comparable(want.stdout, shape), comparable(got.stdout, shape))
}

func comparableError(p printed, shape bool) string {
	if shape {
		return word.ReplaceAllString(p.stderr, "x")
	}
	return p.stderr
}

// A learner that has all it needs fails one check of the four, until it is promoted.
func TestLearnerIsNotReady(t *testing.T) {
	var learners []*server
	for system, bin := range map[string]string{"raftd": program(t, "RAFTD", "build/release/bin/raftd"),
		"etcd": program(t, "PEER", "build/peers/etcd")} {
		g := newGroup(t, system, bin)
		g.learn(t)
		if err := prepare(g); err != nil {
			t.Fatal(err)
		}
		call := pb.MemberAddRequest{PeerURLs: []string{g.last().PeerURL()}, IsLearner: true}
		for deadline := time.Now().Add(settleTimeout); ; time.Sleep(100 * time.Millisecond) {
			_, err := pb.NewClusterClient(g.leads.Conn).MemberAdd(context.Background(), &call)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(system, err)
			}
		}
		if err := g.last().Launch(); err != nil {
			t.Fatal(err)
		}
		learners = append(learners, &server{name: system, Member: g.last()})
	}
	const want = "[+]data_corruption ok\n[+]linearizable_read ok\n[+]serializable_read ok\n" +
		"[-]non_learner failed: not supported for learner"
	for _, s := range learners {
		for deadline := time.Now().Add(settleTimeout); ; time.Sleep(100 * time.Millisecond) {
			answer := fetch(s, "GET", "/readyz", "")
			if answer.status == 503 && strings.TrimSpace(sorted(answer.body)) == want {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s: %+v", s.name, answer)
				break
			}
		}
		if answer := fetch(s, "GET", "/readyz?exclude=non_learner", ""); answer.status != 200 {
			t.Errorf("%s, without that check: %+v", s.name, answer)
		}
	}
}
