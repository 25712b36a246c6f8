package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"raft/tests/harness"
)

const diskBytes = 448 << 20 // log segments prepared ahead, and the tables

// ownDisk puts a member's data onto a file system of its own, which is there to be frozen.
func ownDisk(m *harness.Member) (mount string, err error) {
	image := filepath.Join(m.Dir, "image")
	mount = filepath.Join(m.Dir, "disk")
	if err = os.MkdirAll(mount, 0o755); err != nil {
		return mount, err
	}
	if err = os.WriteFile(image, nil, 0o644); err == nil {
		err = os.Truncate(image, diskBytes)
	}
	for _, words := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, mount}} {
		if err == nil {
			var out []byte
			if out, err = exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
				err = fmt.Errorf("%v: %w: %s", words, err, out)
			}
		}
	}
	if err == nil {
		if err = os.Mkdir(filepath.Join(mount, "data"), 0o755); err == nil {
			err = os.Symlink(filepath.Join(mount, "data"), m.Data())
		}
	}
	return mount, err
}

func freezingMissing() string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	for _, name := range []string{"mkfs.ext4", "mount", "umount", "fsfreeze"} {
		if _, err := exec.LookPath(name); err != nil {
			return "no " + name
		}
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return "no loop devices"
	}
	return ""
}

// The leader's disk takes no write any more, without an error: another member takes over, although
// the leader is alive and could go on sending heartbeats. When the disk wakes up, all is well.
func TestHangingDisk(t *testing.T) {
	if missing := freezingMissing(); missing != "" {
		t.Skipf("SKIPPED, nothing was tested: %s", missing)
	}
	r := prepareCluster(t, seeded(t), 3)
	mounts := map[*harness.Member]string{}
	t.Cleanup(func() { // before the cluster's own: what is frozen cannot be ended
		for _, mount := range mounts {
			_ = exec.Command("fsfreeze", "-u", mount).Run()
		}
		r.cluster.Close()
		for _, mount := range mounts {
			for try := 0; exec.Command("umount", mount).Run() != nil; try++ {
				if try == 100 {
					t.Errorf("%s stays mounted", mount)
					break
				}
				time.Sleep(50 * time.Millisecond) // a process that ended lets go of its files a little later
			}
		}
	})
	for _, m := range r.cluster.Members {
		mount, err := ownDisk(m)
		mounts[m] = mount
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.again(r.cluster.Members...); err != nil {
		t.Fatal(err)
	}
	client, err := open(r.cluster.Endpoints()...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	put := func(key string) error {
		ctx, cancel := context.WithTimeout(context.Background(), memberLimit)
		defer cancel()
		for {
			attempt, done := context.WithTimeout(ctx, 2*time.Second)
			_, err := client.Put(attempt, key, "value")
			done()
			if err == nil || ctx.Err() != nil {
				return err
			}
		}
	}
	if err := put("before"); err != nil {
		t.Fatal(err)
	}
	leader, before, err := r.cluster.Leader()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("fsfreeze", "-f", mounts[leader]).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := put("during"); err != nil { // the other two have a majority: this needs no new leader
		t.Fatal(err)
	}
	for deadline := time.Now().Add(memberLimit); ; time.Sleep(50 * time.Millisecond) {
		now, status, err := r.cluster.Leader()
		if err == nil && now != leader && status.RaftTerm > before.RaftTerm {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no other member leads: %v\n%s", err, leader.Tail(10))
		}
	}
	if n := metric(leader, "raft_disk_watchdog_moves_total") + metric(leader, "raft_disk_watchdog_trips_total"); n < 1 {
		t.Errorf("the watchdog did nothing: %d", n)
	}
	if err := put("meanwhile"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("fsfreeze", "-u", mounts[leader]).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := put("after"); err != nil {
		t.Fatal(err)
	}
	if err := r.equal(); err != nil {
		t.Fatal(err)
	}
	if err := r.cluster.Ended(); err != nil {
		t.Fatal(err)
	}
}
