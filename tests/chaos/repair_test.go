package chaos

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"raft/tests/harness"
)

const repairKeys = 240

// logBlocks are the blocks of a stopped member's log, in order; blocks without entries are left out.
func logBlocks(t *testing.T, m *harness.Member) []block {
	t.Helper()
	ctl, err := harness.Program("RAFTCTL", "build/release/bin/raftctl")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(ctl, "debug", "log", m.Data()).Output()
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	for _, line := range strings.Split(string(out), "\n") {
		var b block
		if n, _ := fmt.Sscanf(line, "%s offset %d bytes %d", &b.segment, &b.offset, &b.bytes); n == 3 &&
			!strings.Contains(line, " 0 entries") {
			blocks = append(blocks, b)
		}
	}
	if len(blocks) < 40 {
		t.Fatalf("%d blocks with entries: too few\n%s", len(blocks), out)
	}
	return blocks
}

func damageBlock(t *testing.T, m *harness.Member, b block, at int64, how func([]byte)) {
	edit(t, filepath.Join(m.Data(), "log", b.segment), b.offset+at, how)
}

// metric is a value of /metrics, -1 when it is not there.
func metric(m *harness.Member, name string) int64 {
	reply, err := http.Get("http://" + m.Client + "/metrics")
	if err != nil {
		return -1
	}
	defer reply.Body.Close()
	text, _ := io.ReadAll(reply.Body)
	for _, line := range strings.Split(string(text), "\n") {
		var value int64
		if n, _ := fmt.Sscanf(line, name+" %d", &value); n == 1 {
			return value
		}
	}
	return -1
}

// whole waits until the member has no damaged entries and has written at least one again.
func whole(t *testing.T, m *harness.Member) {
	t.Helper()
	deadline := time.Now().Add(memberLimit)
	for metric(m, "raft_log_faulty_entries") != 0 || metric(m, "raft_log_repaired_entries_total") < 1 {
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d entries are damaged, %d were repaired\n%s", m.Name, metric(m, "raft_log_faulty_entries"),
				metric(m, "raft_log_repaired_entries_total"), m.Tail(10))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Damaged blocks of members' logs come back from the others, and nothing is lost or served wrong.
func TestRepair(t *testing.T) {
	type hurt struct {
		name     string
		members  int // how many are killed at once and damaged, each in another place
		restarts bool
		at       int64
		how      func([]byte)
	}
	for _, c := range []hurt{
		{"payload of one member", 1, false, 200, flip},
		{"header of one member", 1, false, 20, flip},
		{"a page of one member", 1, false, 0, zero},
		{"two members, then all are killed again", 2, true, 200, flip},
		{"all members, each in another block", 3, false, 200, flip},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startCluster(t, seeded(t), 3)
			client, err := open(r.cluster.Endpoints()...)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			put := func(i int) {
				ctx, cancel := context.WithTimeout(context.Background(), memberLimit)
				defer cancel()
				for { // the member that has the connection may be the one that was killed
					_, err := client.Put(ctx, fmt.Sprintf("key/%d", i%50), strings.Repeat(fmt.Sprint(i), 40))
					if err == nil {
						return
					}
					if ctx.Err() != nil {
						t.Fatal(err)
					}
				}
			}
			for i := range repairKeys {
				put(i)
			}
			victims := r.cluster.Members[:c.members]
			for _, m := range victims {
				if err := m.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if c.members < 2 {
				for i := range 20 {
					put(repairKeys + i)
				}
			}
			for i, m := range victims {
				blocks := logBlocks(t, m)
				damageBlock(t, m, blocks[len(blocks)/3+5*i], c.at, c.how)
			}
			if err := r.again(victims...); err != nil {
				t.Fatal(err)
			}
			for _, m := range victims {
				whole(t, m)
			}
			put(2 * repairKeys)
			if err := r.equal(); err != nil {
				t.Fatal(err)
			}
			if c.restarts { // what was written again is found again
				if err := r.killed(r.cluster.Members...); err != nil {
					t.Fatal(err)
				}
				for _, m := range r.cluster.Members {
					if n := metric(m, "raft_log_faulty_entries"); n != 0 {
						t.Errorf("%s has %d damaged entries after its repair", m.Name, n)
					}
				}
				if err := r.equal(); err != nil {
					t.Fatal(err)
				}
			}
			got, err := client.Get(context.Background(), "key/", clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err != nil || got.Count != 50 {
				t.Fatalf("%v keys, %v", got, err)
			}
			if err := r.cluster.Ended(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A member that cannot tell what it acknowledged does not start: it would vote and acknowledge
// against its word.
func TestFenced(t *testing.T) {
	r := startCluster(t, seeded(t), 3)
	client, err := open(r.cluster.Endpoints()...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range repairKeys {
		if _, err := client.Put(context.Background(), fmt.Sprint(i), "value"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second) // after a rest the superblock tells what was durable: the only proof that is left below
	m := r.cluster.Members[1]
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	blocks := logBlocks(t, m)
	for _, b := range blocks[1:] { // nothing sound is left that tells what was there
		for at := int64(0); at < b.bytes; at += 4096 {
			damageBlock(t, m, b, at, zero)
		}
	}
	ring := filepath.Join(m.Data(), "log/ring")
	info, err := os.Stat(ring)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(2 * 4096); at < info.Size(); at += 4096 { // the first two are superblocks
		edit(t, ring, at, zero)
	}
	if err := m.Launch(r.launchFlags()...); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.Exited():
	case <-time.After(memberLimit):
		t.Fatal("it runs")
	}
	if m.ExitCode() != 1 || !strings.Contains(m.Output(), "remove member") {
		t.Fatalf("exit code %d: %s", m.ExitCode(), m.Tail(5))
	}
}

// The power fails under load, and every member has torn the last block that it wrote: nobody can
// tell whether it was acknowledged, and nobody has a good copy. The group gives it up and goes on.
func TestTornEverywhere(t *testing.T) {
	r := startCluster(t, seeded(t), 3)
	client, err := open(r.cluster.Endpoints()...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	dropped := int64(0)
	for try := 0; try < 8 && dropped == 0; try++ {
		ctx, cancel := context.WithCancel(context.Background())
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					_, _ = client.Put(ctx, fmt.Sprintf("%d/%d", w, i%100), strings.Repeat("v", 100+i%900))
				}
			})
		}
		r.between(300*time.Millisecond, 600*time.Millisecond)
		for _, m := range r.cluster.Members { // all at once
			_ = m.Signal(syscall.SIGSTOP)
		}
		for _, m := range r.cluster.Members {
			if err := m.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		cancel()
		writers.Wait()
		for _, m := range r.cluster.Members {
			blocks := logBlocks(t, m)
			damageBlock(t, m, blocks[len(blocks)-1], 20, flip)
		}
		if err := r.again(r.cluster.Members...); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Put(context.Background(), "after", fmt.Sprint(try)); err != nil {
			t.Fatal(err)
		}
		if err := r.equal(); err != nil {
			t.Fatal(err)
		}
		for _, m := range r.cluster.Members {
			dropped += max(0, metric(m, "raft_log_dropped_entries_total"))
		}
	}
	if dropped == 0 {
		t.Error("it always ended otherwise: some member had a good copy, or only blocks without entries were torn")
	}
	if err := r.cluster.Ended(); err != nil {
		t.Fatal(err)
	}
}
