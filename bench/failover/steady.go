package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"raft/tests/harness"
)

// What must not happen: a new term or leader while every leader is well.

// reign is what a member says of term and leader; campaigns are those it ever began, as far as its
// metrics tell.
type reign struct {
	term, leader uint64
	campaigns    float64
}

func reigns(c *harness.Cluster) (map[string]reign, error) {
	all := map[string]reign{}
	for _, m := range c.Members {
		ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
		s, err := m.Status(ctx)
		cancel()
		if err != nil {
			return nil, err
		}
		all[m.Name] = reign{s.RaftTerm, s.Leader, campaigns(m)}
	}
	return all, nil
}

// campaigns reads raftd's own counter, or etcd's count of the leaders it has seen.
func campaigns(m *harness.Member) float64 {
	reply, err := http.Get("http://" + m.Client + "/metrics")
	if err != nil {
		return -1
	}
	defer reply.Body.Close()
	sum := 0.0
	for lines := bufio.NewScanner(reply.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if strings.HasPrefix(name, "raft_elections_total") || name == "etcd_server_leader_changes_seen_total" {
			number, _ := strconv.ParseFloat(value, 64)
			sum += number
		}
	}
	return sum
}

// compare prints both, and is an error when term or leader changed.
func compare(s *system, before, after map[string]reign) error {
	var changed []string
	for _, m := range s.cluster.Members {
		b, a := before[m.Name], after[m.Name]
		fmt.Printf("  %s %s: term %d -> %d, leader %x -> %x, campaigns and leaders seen %.0f -> %.0f\n", s.name, m.Name,
			b.term, a.term, b.leader, a.leader, b.campaigns, a.campaigns)
		if a.term != b.term || a.leader != b.leader {
			changed = append(changed, m.Name)
		}
	}
	if changed != nil {
		return fmt.Errorf("%s: term or leader changed at %v", s.name, changed)
	}
	return nil
}

// isolate cuts a follower off under load, and looks at what its return does.
func isolate(all []*system, away time.Duration) error {
	if missing := harness.NetworkMissing(); missing != "" {
		return fmt.Errorf("%s", missing)
	}
	if !harness.IsApart() {
		again := harness.Apart(os.Args[1:]...)
		again.Stdout, again.Stderr = os.Stdout, os.Stderr
		return again.Run()
	}
	var failed error
	for _, s := range all {
		if err := isolateOne(s, away); err != nil {
			failed = err
			fmt.Println(err)
		}
		s.close()
	}
	return failed
}

func isolateOne(s *system, away time.Duration) error {
	dir, err := newDir(s.name)
	if err != nil {
		return err
	}
	if s.cluster, err = harness.NewCluster(s.bin, dir, 3, s.flags...); err != nil {
		return err
	}
	network, err := harness.NewNetwork(s.cluster)
	if err != nil {
		return err
	}
	defer network.Close()
	if err := s.cluster.Start(readyLimit); err != nil {
		return err
	}
	leader, _, err := s.cluster.Leader()
	if err != nil {
		return err
	}
	lost := slices.IndexFunc(s.cluster.Members, func(m *harness.Member) bool { return m != leader })
	app, err := newApplication(slices.Delete(s.cluster.Endpoints(), lost, lost+1))
	if err != nil {
		return err
	}
	defer app.close()
	time.Sleep(time.Second)
	before, err := reigns(s.cluster)
	if err != nil {
		return err
	}
	cut := time.Now()
	if err := network.Isolate(lost); err != nil {
		return err
	}
	time.Sleep(away)
	healed := time.Now()
	if err := network.Heal(); err != nil {
		return err
	}
	if err := s.cluster.Members[lost].Ready(readyLimit); err != nil {
		return err
	}
	serves := time.Since(healed)
	time.Sleep(5 * time.Second)
	after, err := reigns(s.cluster)
	if err != nil {
		return err
	}
	during := app.since(cut)
	first := slices.IndexFunc(during, func(done success) bool { return done.ended.After(healed) })
	gapAway := longestGap(during[:first], cut, healed)
	gapBack := longestGap(during[first-1:], healed, time.Now())
	fmt.Printf("%s: a follower was cut off for %v, %d puts meanwhile; longest gap %d ms, at its return %d ms; it served %d ms after\n",
		s.name, away, first, gapAway.length().Milliseconds(), gapBack.length().Milliseconds(), serves.Milliseconds())
	return compare(s, before, after)
}

const (
	saturationConns    = 8
	saturationInFlight = 32
	compactEvery       = 10 * time.Second
)

// saturate puts with as many requests as the throughput benchmarks have, to the leader, and counts
// elections.
func saturate(all []*system, span time.Duration) error {
	var failed error
	for _, s := range all {
		if err := saturateOne(s, span); err != nil {
			failed = err
			fmt.Println(err)
		}
		s.close()
	}
	return failed
}

func saturateOne(s *system, span time.Duration) error {
	if err := s.start(); err != nil {
		return err
	}
	leader, _, err := s.cluster.Leader()
	if err != nil {
		return err
	}
	before, err := reigns(s.cluster)
	if err != nil {
		return err
	}
	perSecond, failures, err := puts(leader, span)
	if err != nil {
		return err
	}
	after, err := reigns(s.cluster)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %v at saturation: %.0f puts/s, %.0f failed\n", s.name, span, perSecond, failures)
	if err := s.cluster.Ended(); err != nil {
		return err
	}
	return compare(s, before, after)
}

// puts lets raftbench write, which costs less than this program would, while old revisions are
// compacted away as a user has to.
func puts(leader *harness.Member, span time.Duration) (perSecond, failures float64, err error) {
	bench, err := harness.Program("RAFTBENCH", "build/release/bin/raftbench")
	if err != nil {
		return 0, 0, err
	}
	load := exec.Command(bench, "run", "custom", "--endpoint", leader.Client, "--proto", "grpc", "--op", "put",
		"--conns", fmt.Sprint(saturationConns), "--inflight", fmt.Sprint(saturationInFlight), "--value-bytes", "256",
		"--keys", "100000", "--load", "0", "--warmup", "1", "--seconds", fmt.Sprint(int(span.Seconds())), "--json")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go compactNowAndThen(ctx, leader)
	out, err := load.Output()
	if err != nil {
		return 0, 0, fmt.Errorf("raftbench: %w: %s", err, out)
	}
	var result struct {
		Throughput float64 `json:"throughput_per_s"`
		Failed     float64 `json:"failed"`
	}
	err = json.Unmarshal(out, &result)
	return result.Throughput, result.Failed, err
}

func compactNowAndThen(ctx context.Context, leader *harness.Member) {
	kv := pb.NewKVClient(leader.Conn)
	for ctx.Err() == nil {
		now, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), CountOnly: true})
		time.Sleep(compactEvery)
		if err == nil {
			_, _ = kv.Compact(ctx, &pb.CompactionRequest{Revision: now.Header.Revision})
		}
	}
}
