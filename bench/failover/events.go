package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"raft/tests/harness"
)

// event takes the leadership away, and gives the cluster back its three members.
type event struct {
	name, what string
	do         func(c *harness.Cluster, leader *harness.Member) error
	heal       func(leader *harness.Member) error
}

func launch(m *harness.Member) error { return m.Launch() }

var events = []event{
	{"kill", "SIGKILL of the leader", func(_ *harness.Cluster, leader *harness.Member) error { return leader.Kill() }, launch},
	{"pause", "SIGSTOP of the leader", func(_ *harness.Cluster, leader *harness.Member) error {
		return leader.Signal(syscall.SIGSTOP)
	}, func(leader *harness.Member) error { return leader.Signal(syscall.SIGCONT) }},
	{"move", "MoveLeader", move, func(*harness.Member) error { return nil }},
	{"drain", "SIGTERM of the leader", drain, launch},
}

func eventNames() []string {
	var all []string
	for _, e := range events {
		all = append(all, e.name)
	}
	return all
}

// drain waits for the end, however the process ends: etcd raises the signal once more by itself.
func drain(_ *harness.Cluster, leader *harness.Member) error {
	if err := leader.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-leader.Exited():
		return nil
	case <-time.After(readyLimit):
		return fmt.Errorf("the leader did not end within %v", readyLimit)
	}
}

func move(c *harness.Cluster, leader *harness.Member) error {
	other := c.Members[rand.IntN(len(c.Members))]
	for other == leader {
		other = c.Members[rand.IntN(len(c.Members))]
	}
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	s, err := other.Status(ctx)
	if err != nil {
		return err
	}
	client, err := connect(leader.Client)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.MoveLeader(ctx, s.Header.MemberId)
	return err
}

type measure struct{ gap, slowest time.Duration }

// once lets an event happen at a random moment, and gives the cluster back whole.
func (e *event) once(c *harness.Cluster) (measure, error) {
	leader, _, err := c.Leader()
	if err != nil {
		return measure{}, err
	}
	app, err := newApplication(c.Endpoints())
	if err != nil {
		return measure{}, err
	}
	defer app.close()
	time.Sleep(500*time.Millisecond + time.Duration(rand.Int64N(int64(300*time.Millisecond))))
	began := time.Now()
	if err := e.do(c, leader); err != nil {
		return measure{}, fmt.Errorf("%s: %w", e.what, err)
	}
	done, err := app.recovered(began, 2*time.Second)
	if err != nil {
		return measure{}, fmt.Errorf("%s: %w", e.what, err)
	}
	var m measure
	m.gap, m.slowest = gap(done)
	if err := e.heal(leader); err != nil {
		return measure{}, err
	}
	for _, member := range c.Members {
		if err := member.Ready(readyLimit); err != nil {
			return measure{}, err
		}
	}
	return m, c.Ended()
}

// failovers measures events in turns of the systems, and gives the table.
func failovers(all []*system, names []string, runs int) (string, error) {
	for _, s := range all {
		if err := s.start(); err != nil {
			return "", err
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| event, %d runs | system | gap median | p99 | max | slowest request median | p99 | max |\n|---|---|---|---|---|---|---|---|\n", runs)
	for _, e := range events {
		if !slices.Contains(names, e.name) {
			continue
		}
		measures := map[*system][]measure{}
		for i := range runs {
			for _, s := range all {
				m, err := e.once(s.cluster)
				if err != nil {
					return "", fmt.Errorf("%s, %w", s.name, err)
				}
				measures[s] = append(measures[s], m)
				fmt.Fprintf(os.Stderr, "  %-6s %-5s run %2d: gap %4d ms, slowest request %4d ms\n", s.name, e.name, i+1,
					m.gap.Milliseconds(), m.slowest.Milliseconds())
			}
		}
		for _, s := range all {
			fmt.Fprintf(&table, "| %s | %s | %s | %s |\n", e.what, s.name,
				spread(measures[s], func(m measure) time.Duration { return m.gap }),
				spread(measures[s], func(m measure) time.Duration { return m.slowest }))
		}
	}
	return table.String(), nil
}

// spread is median, p99 and maximum.
func spread(all []measure, of func(measure) time.Duration) string {
	var values []time.Duration
	for _, m := range all {
		values = append(values, of(m))
	}
	slices.Sort(values)
	at := func(share float64) int64 { return values[int(float64(len(values)-1)*share+0.5)].Milliseconds() }
	return fmt.Sprintf("%d ms | %d ms | %d ms", at(0.5), at(0.99), at(1))
}

// machine names what the numbers belong to.
func machine(root string) string {
	cpu := "?"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, line, _ := strings.Cut(string(text), "model name")
		line, _, _ = strings.Cut(line, "\n")
		cpu = strings.Trim(line, "\t :")
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	commit, _ := exec.Command("git", "-C", root, "rev-parse", "--short", "HEAD").Output()
	return fmt.Sprintf("%s, %d cores, Linux %s; raftd at %s", cpu, runtime.NumCPU(),
		strings.TrimSpace(string(release)), strings.TrimSpace(string(commit)))
}

func appendResults(table string) error {
	root, err := harness.Root()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(root, "bench/RESULTS.md"), os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = fmt.Fprintf(file, "\n## %s, bench/failover\n\n- %s\n- three members of each system on this machine; one clientv3 that knows "+
		"all three, %d requests in flight, attempts of %v, tried again at once\n- gap: the longest time without a success; election timeout "+
		"1 s, heartbeat 100 ms, the defaults of both\n\n%s", time.Now().UTC().Format("2006-01-02 15:04 UTC"), machine(root), workers, attempt, table)
	return err
}
