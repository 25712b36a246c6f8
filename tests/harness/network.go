package harness

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// Network puts each member into a network namespace of its own, all on one bridge, and cuts what
// goes from one to another, in one direction or both.
//
// Bridge and rules live in namespaces without a name: that of this process (see Apart) and those of
// one sleeping process a member. They are gone when these processes are, whatever ended them.
type Network struct {
	sleepers []*exec.Cmd
	blocked  map[[2]int]bool // from, to; member numbers from 0, Outside for everybody else
}

// Outside is this process: the clients.
const Outside = -1

const (
	apartVariable = "RAFT_HARNESS_APART"
	subnet        = "10.77.0."
	hostPart      = 250 // of this process
)

// NetworkMissing says what is not there for networks, "" when nothing is missing.
func NetworkMissing() string {
	if os.Geteuid() != 0 {
		return "network namespaces need root"
	}
	for _, program := range []string{"ip", "nft", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Sprintf("%s is not installed (tools/install test)", program)
		}
	}
	return ""
}

// IsApart tells whether this process was started by Apart.
func IsApart() bool { return os.Getenv(apartVariable) != "" }

// Apart is this program again, in an empty network namespace.
func Apart(arguments ...string) *exec.Cmd {
	again := exec.Command("/proc/self/exe", arguments...)
	again.Env = append(os.Environ(), apartVariable+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	return again
}

func command(input string, words ...string) error {
	run := exec.Command(words[0], words[1:]...)
	run.Stdin = strings.NewReader(input)
	if out, err := run.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func address(member int) string {
	if member == Outside {
		return fmt.Sprint(subnet, hostPart)
	}
	return fmt.Sprint(subnet, member+1)
}

func link(member int) string { return fmt.Sprintf("member%d", member) }

// NewNetwork gives every member of a cluster that has not started its namespace and its addresses.
func NewNetwork(c *Cluster) (*Network, error) {
	n := &Network{blocked: map[[2]int]bool{}}
	for _, line := range []string{"link set lo up", "link add cluster type bridge",
		"addr add " + address(Outside) + "/24 dev cluster", "link set cluster up"} {
		if err := command("", append([]string{"ip"}, strings.Fields(line)...)...); err != nil {
			return nil, err
		}
	}
	for i, m := range c.Members {
		if err := n.place(i, m); err != nil {
			n.Close()
			return nil, err
		}
	}
	c.Introduce()
	return n, nil
}

func (n *Network) place(i int, m *Member) error {
	sleeper := exec.Command("sleep", "infinity")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	if err := sleeper.Start(); err != nil {
		return err
	}
	n.sleepers = append(n.sleepers, sleeper)
	m.Inside = []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", sleeper.Process.Pid)}
	m.Client, m.Peer = address(i)+":2379", address(i)+":2380"
	outside := []string{"link add " + link(i) + " type veth peer name eth0 netns " + fmt.Sprint(sleeper.Process.Pid),
		"link set " + link(i) + " master cluster up"}
	inside := []string{"link set lo up", "addr add " + address(i) + "/24 dev eth0", "link set eth0 up"}
	for _, line := range outside {
		if err := command("", append([]string{"ip"}, strings.Fields(line)...)...); err != nil {
			return err
		}
	}
	for _, line := range inside {
		if err := command("", slices.Concat(m.Inside, []string{"ip"}, strings.Fields(line))...); err != nil {
			return err
		}
	}
	return nil
}

// Close lets another network be made.
func (n *Network) Close() {
	_ = command("", "ip", "link", "delete", "cluster")
	for i, sleeper := range n.sleepers {
		_ = command("", "ip", "link", "delete", link(i))
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}
}

// Cut drops what goes from the first to the second, until Heal.
func (n *Network) Cut(from, to int) error {
	n.blocked[[2]int{from, to}] = true
	return n.apply()
}

// Isolate cuts a member off from the other members, both ways.
func (n *Network) Isolate(member int) error {
	for other := range n.sleepers {
		if other != member {
			n.blocked[[2]int{member, other}], n.blocked[[2]int{other, member}] = true, true
		}
	}
	return n.apply()
}

func (n *Network) Heal() error {
	n.blocked = map[[2]int]bool{}
	return n.apply()
}

// apply writes each member's rules anew: what reaches it from whom it is cut off, and (to the
// outside) what leaves it, is dropped without a word.
func (n *Network) apply() error {
	for member, sleeper := range n.sleepers {
		rules := "add table ip cut\ndelete table ip cut\ntable ip cut {\n" +
			"chain in { type filter hook input priority 0; policy accept;\n"
		for pair := range n.blocked {
			if pair[1] == member {
				rules += "ip saddr " + address(pair[0]) + " drop\n"
			}
		}
		rules += "}\nchain out { type filter hook output priority 0; policy accept;\n"
		if n.blocked[[2]int{member, Outside}] {
			rules += "ip daddr " + address(Outside) + " drop\n"
		}
		rules += "}\n}\n"
		namespace := fmt.Sprintf("--net=/proc/%d/ns/net", sleeper.Process.Pid)
		if err := command(rules, "nsenter", namespace, "nft", "-f", "-"); err != nil {
			return err
		}
	}
	return nil
}
