package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"raft/tests/harness"
)

// What a member that lags too far costs the others while it is sent the tables.

const (
	fillValueBytes = 64 << 10
	fillInFlight   = 8
	normalTime     = 5 * time.Second
	settleTime     = 10 * time.Second // compactions of what was filled in
	windowTime     = time.Second      // shorter than a silence that ends connections
	windowsMax     = 120
)

// latencies are of the requests that ended in a time.
type latencies []time.Duration

func (a *application) latencies(from, to time.Time) latencies {
	var all latencies
	for _, s := range a.since(from) {
		if s.ended.After(from) && s.ended.Before(to) {
			all = append(all, s.ended.Sub(s.began))
		}
	}
	slices.Sort(all)
	return all
}

func (l latencies) at(share float64) float64 {
	if len(l) == 0 {
		return 0
	}
	return quantile(l, share)
}

func (a *application) during(span time.Duration) latencies {
	from := time.Now()
	time.Sleep(span)
	return a.latencies(from, time.Now())
}

// fill puts so many bytes of values that do not compress.
func fill(leader *harness.Member, bytes int64) error {
	client, err := connect(leader.Client)
	if err != nil {
		return err
	}
	defer client.Close()
	var next atomic.Int64
	var group sync.WaitGroup
	problems := make(chan error, fillInFlight)
	for range fillInFlight {
		group.Go(func() {
			value := make([]byte, fillValueBytes)
			for i := next.Add(1); i*fillValueBytes <= bytes; i = next.Add(1) {
				_, _ = rand.Read(value)
				ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
				_, err := client.Put(ctx, fmt.Sprint("fill/", i), string(value))
				cancel()
				if err != nil {
					problems <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-problems:
		return fmt.Errorf("filling: %w", err)
	default:
		return nil
	}
}

func metric(m *harness.Member, name string) float64 {
	reply, err := http.Get("http://" + m.Client + "/metrics")
	if err != nil {
		return -1
	}
	defer reply.Body.Close()
	for lines := bufio.NewScanner(reply.Body); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), name+" "); found {
			value, _ := strconv.ParseFloat(rest, 64)
			return value
		}
	}
	return -1
}

// applied is how far a member's tables go; 0 when it does not say.
func applied(m *harness.Member) uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), windowTime)
	defer cancel()
	s, err := m.Status(ctx)
	if err != nil {
		return 0
	}
	return s.RaftAppliedIndex
}

// rejoin lets a follower miss `mib` of writes, and compares the others' puts while it is sent the
// tables with those of windows in between, in which it is stopped and takes nothing.
func rejoin(s *system, mib int) error {
	if err := s.start(); err != nil {
		return err
	}
	leader, _, err := s.cluster.Leader()
	if err != nil {
		return err
	}
	follower := s.cluster.Members[0]
	if follower == leader {
		follower = s.cluster.Members[1]
	}
	app, err := newApplication([]string{leader.Client})
	if err != nil {
		return err
	}
	defer app.close()
	time.Sleep(time.Second)
	tell := func(what string, l latencies) {
		fmt.Printf("%s: %-38s %7d puts, p50 %6.2f ms, p99 %6.2f ms\n", s.name, what, len(l), l.at(0.5), l.at(0.99))
	}
	tell("two followers", app.during(normalTime))
	if err := follower.Kill(); err != nil {
		return err
	}
	began := time.Now()
	if err := fill(leader, int64(mib)<<20); err != nil {
		return err
	}
	fmt.Printf("%s: %d MiB written in %.1f s without it\n", s.name, mib, time.Since(began).Seconds())
	time.Sleep(settleTime)
	tell("one follower", app.during(normalTime))
	began = time.Now()
	missed := applied(leader)
	if err := follower.Launch(); err != nil {
		return err
	}
	var with, without latencies
	var ratios []float64
	for len(ratios) < windowsMax && applied(follower) < missed {
		on := app.during(windowTime)
		if err := follower.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		off := app.during(windowTime)
		if err := follower.Signal(syscall.SIGCONT); err != nil {
			return err
		}
		with, without = append(with, on...), append(without, off...)
		if off.at(0.99) > 0 {
			ratios = append(ratios, on.at(0.99)/off.at(0.99))
		}
	}
	back := time.Since(began)
	if len(ratios) == 0 || len(ratios) == windowsMax {
		return fmt.Errorf("%s: it had what it missed after %d windows:\n%s", s.name, len(ratios), follower.Tail(10))
	}
	if err := follower.Ready(readyLimit); err != nil {
		return err
	}
	slices.Sort(with)
	slices.Sort(without)
	slices.Sort(ratios)
	tell("while it is sent the tables", with)
	tell("windows in between: it is stopped", without)
	tell("two followers again", app.during(normalTime))
	fmt.Printf("%s: back after %.1f s, half of them stopped; %.0f snapshots sent; p99 of pooled windows %.2f times, of %d pairs "+
		"%.2f times in the middle, %.2f at most\n", s.name, back.Seconds(), metric(leader, "raft_snapshots_sent_total"),
		with.at(0.99)/without.at(0.99), len(ratios), ratios[len(ratios)/2], ratios[len(ratios)-1])
	return s.cluster.Ended()
}
