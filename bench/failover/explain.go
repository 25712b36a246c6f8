package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"raft/tests/harness"
)

// Gaps longer than this are explained; 0: none.
var explainAbove time.Duration

const (
	explainMargin = 30 * time.Millisecond // of what is printed, around event and gap
	probeSlow     = 10 * time.Millisecond // else it is not worth a line
)

// witness stands beside an event: it asks disk and scheduler all the time how long they take.
type witness struct {
	cluster *harness.Cluster
	stop    chan struct{}
	results []chan []wait
}

// wait is something that should have ended at once.
type wait struct {
	gap
	what string
}

// within is how much of it lies in a gap.
func (w wait) within(g gap) time.Duration {
	from, to := w.from, w.to
	if g.from.After(from) {
		from = g.from
	}
	if g.to.Before(to) {
		to = g.to
	}
	return max(0, to.Sub(from))
}

// newWitness is one that looks away when nothing is to be explained.
func newWitness(c *harness.Cluster) *witness {
	w := &witness{cluster: c}
	if explainAbove == 0 {
		return w
	}
	w.stop = make(chan struct{})
	path := filepath.Join(c.Dir, "witness")
	if file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|syscall.O_DSYNC, 0o644); err == nil {
		w.watch("disk: a write of 4 KiB", 5*time.Millisecond, func() { _, _ = file.WriteAt(make([]byte, 4096), 0) }, func() { file.Close() })
	}
	w.watch("disk: a new file", 50*time.Millisecond, func() { newFile(path + ".new") }, func() {})
	w.watch("scheduler: a sleep of 1 ms", 5*time.Millisecond, func() { time.Sleep(time.Millisecond) }, func() {})
	return w
}

// newFile is made durable, as that of a table is, and removed.
func newFile(path string) {
	file, err := os.Create(path)
	if err != nil {
		return
	}
	defer file.Close()
	_, _ = file.Write(make([]byte, 64<<10))
	_ = file.Sync()
	_ = os.Remove(path)
}

func (w *witness) watch(what string, pause time.Duration, once, end func()) {
	result := make(chan []wait, 1)
	w.results = append(w.results, result)
	go probe(w.stop, what, pause, result, once, end)
}

func probe(stop <-chan struct{}, what string, pause time.Duration, result chan<- []wait, once, end func()) {
	defer end()
	var slow []wait
	for {
		from := time.Now()
		once()
		if to := time.Now(); to.Sub(from) > probeSlow {
			slow = append(slow, wait{gap{from, to}, what})
		}
		select {
		case <-stop:
			result <- slow
			return
		case <-time.After(pause):
		}
	}
}

func (w *witness) close() {
	if w.stop != nil {
		close(w.stop)
		w.stop = nil
	}
}

// explain judges whether the machine made the event's gap. It prints the gaps that are too long, and
// what happened around each; around the event's own, from just before the event.
func (w *witness) explain(leader *harness.Member, event time.Time, m *measure) {
	if explainAbove == 0 {
		return
	}
	w.close()
	var slow []wait
	for _, result := range w.results {
		slow = append(slow, <-result...)
	}
	for _, s := range slow {
		m.disturbed = m.disturbed || 2*s.within(m.event) > m.event.length()
	}
	for _, g := range []gap{m.before, m.event, m.later} {
		if g.length() <= explainAbove {
			continue
		}
		first := g.from
		if g == m.event {
			first = event
		}
		fmt.Fprintf(os.Stderr, "    event at %s, leader %s; no success from %s to %s\n", clock(event), leader.Name, clock(g.from), clock(g.to))
		for _, line := range w.around(first.Add(-explainMargin), g.to.Add(explainMargin), slow) {
			fmt.Fprintf(os.Stderr, "    %s\n", line)
		}
	}
}

// around is what the members logged in a time, and who had to wait, in order.
func (w *witness) around(first, last time.Time, slow []wait) []string {
	var lines []string
	for _, s := range slow {
		if s.to.After(first) && s.from.Before(last) {
			lines = append(lines, fmt.Sprintf("%s %s took %v", clock(s.from), s.what, s.length()))
		}
	}
	for _, m := range w.cluster.Members {
		for line := range strings.Lines(m.Output()) {
			var head struct {
				TS time.Time `json:"ts"`
			}
			if json.Unmarshal([]byte(line), &head) == nil && head.TS.After(first) && head.TS.Before(last) {
				lines = append(lines, fmt.Sprintf("%s %s %s", clock(head.TS), m.Name, strings.TrimSpace(line)))
			}
		}
	}
	slices.Sort(lines)
	return lines
}

func clock(moment time.Time) string { return moment.UTC().Format("15:04:05.000000") }
