package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
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

const (
	calmTime  = 500 * time.Millisecond // before an event, at least
	watchTime = time.Second            // after it

	// A gap that begins later than this after an event is another's doing, until one is explained
	// otherwise: what an event stops, it stops at once.
	eventTime = 100 * time.Millisecond
)

// measure is the longest gap that the event made, those before it and after all was well again,
// which tell how quiet the machine was, and the slowest request that the event met.
type measure struct {
	event, before, later gap
	slowest              time.Duration
	disturbed            bool // the witness had to wait for most of the event's gap
	refused              error
}

// measured judges what an application saw of an event.
func measured(done []success, began, ended time.Time) (m measure) {
	m.event = longestGap(done, began, ended.Add(eventTime))
	m.before = longestGap(done, began.Add(-calmTime), m.event.from)
	m.later = longestGap(done, m.event.to, m.event.to.Add(watchTime))
	for _, s := range done {
		if s.ended.After(began) && s.began.Before(m.event.to) {
			m.slowest = max(m.slowest, s.ended.Sub(s.began))
		}
	}
	return m
}

// keepGarbage puts this program's own collections off, which take a core for 10 ms and more, until
// the function that it returns is called. A run leaves some hundred MiB.
func keepGarbage() func() {
	runtime.GC()
	percent := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(percent) }
}

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
	defer keepGarbage()()
	watch := newWitness(c)
	defer watch.close()
	start := time.Now()
	time.Sleep(calmTime + 300*time.Millisecond + time.Duration(rand.Int64N(int64(300*time.Millisecond))))
	began := time.Now()
	refused := e.do(c, leader)
	if refused != nil && e.name != "move" { // which a leader may refuse, and goes on
		return measure{}, fmt.Errorf("%s: %w", e.what, refused)
	}
	ended := time.Now()
	if err := app.recovered(began, watchTime); err != nil {
		return measure{}, fmt.Errorf("%s: %w", e.what, err)
	}
	m := measured(app.since(start), began, ended)
	m.refused = refused
	watch.explain(leader, began, &m)
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
	fmt.Fprintf(&table, "| event, %d runs | system | gap median | p90 | p99 | max | slowest request p99 | gap before p99 | gap later p99 |\n"+
		"|---|---|---|---|---|---|---|---|---|\n", runs)
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
				fmt.Fprintf(os.Stderr, "  %-6s %-5s run %2d: gap %5.1f ms, slowest request %5.1f ms, gap before %4.1f ms, later %4.1f ms\n",
					s.name, e.name, i+1, ms(m.event.length()), ms(m.slowest), ms(m.before.length()), ms(m.later.length()))
				if m.refused != nil {
					fmt.Fprintf(os.Stderr, "    refused: %v\n", m.refused)
				}
			}
		}
		for _, s := range all {
			table.WriteString(row(e.what, s.name, measures[s]))
			calm := slices.DeleteFunc(slices.Clone(measures[s]), func(m measure) bool { return m.disturbed })
			if explainAbove > 0 && len(calm) > 0 && len(calm) < runs {
				table.WriteString(row(fmt.Sprintf("the %d with a disk and a scheduler at work", len(calm)), s.name, calm))
			}
		}
	}
	return table.String(), nil
}

func row(what, system string, all []measure) string {
	gaps := sorted(all, func(m measure) time.Duration { return m.event.length() })
	return fmt.Sprintf("| %s | %s | %.0f ms | %.0f ms | %.0f ms | %.0f ms | %.0f ms | %.0f ms | %.0f ms |\n", what, system,
		quantile(gaps, 0.5), quantile(gaps, 0.9), quantile(gaps, 0.99), quantile(gaps, 1),
		quantile(sorted(all, func(m measure) time.Duration { return m.slowest }), 0.99),
		quantile(sorted(all, func(m measure) time.Duration { return m.before.length() }), 0.99),
		quantile(sorted(all, func(m measure) time.Duration { return m.later.length() }), 0.99))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func sorted(all []measure, of func(measure) time.Duration) []time.Duration {
	var values []time.Duration
	for _, m := range all {
		values = append(values, of(m))
	}
	slices.Sort(values)
	return values
}

// quantile is the nearest of the sorted values, in milliseconds.
func quantile(values []time.Duration, share float64) float64 {
	return ms(values[int(float64(len(values)-1)*share+0.5)])
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
	place := "on one disk"
	if dataFolder != "" {
		place = "in " + dataFolder
	}
	_, err = fmt.Fprintf(file, "\n## %s, bench/failover\n\n- %s\n- three members of each system on this machine, their data %s; one clientv3 that knows "+
		"all three, %d requests in flight, attempts of %v, tried again at once\n- gap: the longest time without a success that began "+
		"at most %v after the event; before and later: the same client's longest one when nothing happened; election timeout 1 s, heartbeat "+
		"100 ms, the defaults of both\n\n%s", time.Now().UTC().Format("2006-01-02 15:04 UTC"), machine(root), place, workers, attempt, eventTime, table)
	return err
}
