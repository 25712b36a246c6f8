// failover measures what an application sees when the leader of three members goes away.
//
//	build/peers/failover [--runs 50] [--only kill,pause,move,drain] [--peer etcd] [--record] [--explain 150ms]
//	    [--data /dev/shm]
//	build/peers/failover --isolated-follower 60 [--peer etcd]    (root, nftables)
//	build/peers/failover --elections 600 [--peer etcd]
//	build/peers/failover --rejoin 1024 [--peer etcd]
//
// The application has one official client (clientv3) that knows all three members, and 16
// (--workers) requests in flight: each puts, gives an attempt ATTEMPT, and tries again at once when it failed.
// The gap is the longest time without any success that the event made, from the last one before to
// the first one after; the slowest request is from its first attempt to its success. The longest
// gaps before the event and after it tell how quiet the machine was. Systems take turns, run by run,
// so that a slow minute hits both. Election timeout and heartbeat are the defaults of both systems:
// 1 s and 100 ms.
//
//	kill    SIGKILL of the leader's process
//	pause   SIGSTOP of it
//	move    MoveLeader to another member, as an operator asks for it
//	drain   SIGTERM of the leader's process
//
// --explain prints what the members logged around every gap that was longer, and how long the disk
// and the scheduler kept this program waiting meanwhile; it writes 4 KiB to the same disk all the
// time to know. A second row of the table leaves out the runs in which that took most of the gap.
//
// --data puts the members' data somewhere else than below build/: on a disk of memory, for one, when
// the disk that all three share stands still for longer than what is to be measured takes.
//
// --isolated-follower cuts one follower off for so many seconds: neither term nor leader may change.
// --elections writes as fast as the machine can for so many seconds: no term may change.
// --rejoin writes so many MiB while a follower is away, and looks at puts while it is sent the tables.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"raft/tests/harness"
)

const (
	attempt    = time.Second
	readyLimit = 2 * time.Minute
)

var (
	workers    = 16 // requests in flight
	dataFolder string
)

// system is what is measured, with the cluster of its turns.
type system struct {
	name    string
	bin     string
	flags   []string
	cluster *harness.Cluster
}

// newDir is for the data of a cluster.
func newDir(name string) (string, error) {
	if dataFolder != "" {
		return os.MkdirTemp(dataFolder, "failover-"+name+"-")
	}
	return harness.WorkDir("bench", "failover-"+name+"-")
}

func (s *system) start() error {
	dir, err := newDir(s.name)
	if err != nil {
		return err
	}
	if s.cluster, err = harness.NewCluster(s.bin, dir, 3, s.flags...); err != nil {
		return err
	}
	return s.cluster.Start(readyLimit)
}

func (s *system) close() {
	if s.cluster != nil {
		s.cluster.Close()
		os.RemoveAll(s.cluster.Dir)
	}
}

func systems(peer string) ([]*system, error) {
	raftd, err := harness.Raftd()
	if err != nil {
		return nil, err
	}
	level := "error"
	if explainAbove > 0 {
		level = "debug"
	}
	flags := []string{"--log-level", level, "--quota-backend-bytes", fmt.Sprint(8 << 30)}
	all := []*system{{name: "raftd", bin: raftd, flags: flags}}
	switch peer {
	case "":
		return all, nil
	case "etcd":
		bin, err := harness.Program("PEER", "build/peers/etcd")
		return append(all, &system{name: "etcd", bin: bin, flags: flags}), err
	}
	return nil, fmt.Errorf("no peer %q, there is etcd", peer)
}

func run() error {
	runs := flag.Int("runs", 50, "of each event and system")
	only := flag.String("only", strings.Join(eventNames(), ","), "events")
	peer := flag.String("peer", "", "also measure: etcd")
	flag.DurationVar(&explainAbove, "explain", 0, "tell what happened around gaps longer than this")
	record := flag.Bool("record", false, "append the table to bench/RESULTS.md")
	isolated := flag.Int("isolated-follower", 0, "seconds that a follower is cut off")
	elections := flag.Int("elections", 0, "seconds at saturation")
	flag.StringVar(&dataFolder, "data", "", "where the members have their data (default build/bench)")
	flag.IntVar(&workers, "workers", workers, "requests in flight")
	rejoins := flag.Int("rejoin", 0, "MiB that a follower misses")
	flag.Parse()
	chosen, err := systems(*peer)
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range chosen {
			s.close()
		}
	}()
	switch {
	case *isolated > 0:
		return isolate(chosen, time.Duration(*isolated)*time.Second)
	case *elections > 0:
		return saturate(chosen, time.Duration(*elections)*time.Second)
	}
	if *rejoins > 0 {
		for _, s := range chosen {
			if err := rejoin(s, *rejoins); err != nil {
				return err
			}
			s.close()
		}
		return nil
	}
	names := strings.Split(*only, ",")
	for _, name := range names {
		if !slices.Contains(eventNames(), name) {
			return fmt.Errorf("no event %q, there are %s", name, strings.Join(eventNames(), ", "))
		}
	}
	table, err := failovers(chosen, names, *runs)
	if err != nil {
		return err
	}
	fmt.Print(table)
	if *record {
		return appendResults(table)
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "failover:", err)
		os.Exit(1)
	}
}
