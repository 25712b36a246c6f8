package chaos

import (
	"testing"

	"raft/tests/harness"
)

// A program that cannot be started leaves nothing that runs, waits or has to be killed.
func TestLaunchFails(t *testing.T) {
	cluster, err := harness.NewCluster("/nonexistent/raftd", t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := cluster.Start(memberLimit); err == nil {
		t.Error("a program that is not there was started")
	}
	m := cluster.Members[0]
	if err := m.Kill(); err != nil || m.Running() {
		t.Errorf("after a start that failed: running %v, %v", m.Running(), err)
	}
	cluster.Close()
}
