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
	probePause    = 5 * time.Millisecond
	probeSlow     = 10 * time.Millisecond // else it is not worth a line
)

// witness stands beside an event: it asks disk and scheduler all the time how long they take.
type witness struct {
	cluster    *harness.Cluster
	stop       chan struct{}
	disk, idle chan []wait
}

// wait is something that should have ended at once.
type wait gap

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
	w.stop, w.disk, w.idle = make(chan struct{}), make(chan []wait, 1), make(chan []wait, 1)
	path := filepath.Join(c.Dir, "witness")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|syscall.O_DSYNC, 0o644)
	if err != nil {
		w.disk <- nil
	} else {
		go probe(w.stop, w.disk, func() { _, _ = file.WriteAt(make([]byte, 4096), 0) }, func() { file.Close() })
	}
	go probe(w.stop, w.idle, func() { time.Sleep(time.Millisecond) }, func() {})
	return w
}

func probe(stop <-chan struct{}, result chan<- []wait, once, end func()) {
	defer end()
	var slow []wait
	for {
		from := time.Now()
		once()
		if to := time.Now(); to.Sub(from) > probeSlow {
			slow = append(slow, wait{from, to})
		}
		select {
		case <-stop:
			result <- slow
			return
		case <-time.After(probePause):
		}
	}
}

func (w *witness) close() {
	if w.stop != nil {
		close(w.stop)
		w.stop = nil
	}
}

// explain judges whether the machine made the event's gap. It prints the gaps that are too long, and what happened around each; around the event's own,
// from just before the event.
func (w *witness) explain(leader *harness.Member, event time.Time, m *measure) {
	if explainAbove == 0 {
		return
	}
	w.close()
	disk, idle := <-w.disk, <-w.idle
	for _, s := range slices.Concat(disk, idle) {
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
		for _, line := range w.around(first.Add(-explainMargin), g.to.Add(explainMargin), disk, idle) {
			fmt.Fprintf(os.Stderr, "    %s\n", line)
		}
	}
}

// around is what the members logged in a time, and who had to wait, in order.
func (w *witness) around(first, last time.Time, disk, idle []wait) []string {
	var lines []string
	tell := func(what string, slow []wait) {
		for _, s := range slow {
			if s.to.After(first) && s.from.Before(last) {
				lines = append(lines, fmt.Sprintf("%s %s took %v", clock(s.from), what, s.to.Sub(s.from)))
			}
		}
	}
	tell("disk: a write of 4 KiB", disk)
	tell("scheduler: a sleep of 1 ms", idle)
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
