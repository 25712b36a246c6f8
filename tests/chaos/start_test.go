package chaos

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"raft/tests/harness"
)

// A member that asks a cluster in vain to let it in does so for a while. Who told it to stop meanwhile
// does not wait, and is not told that it failed.
func TestStopWhileStarting(t *testing.T) {
	s, err := newServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.Dir) })
	port, err := harness.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	s.State = "existing"
	s.Initial = fmt.Sprintf("one=%s,two=http://127.0.0.1:%d", s.PeerURL(), port)
	if err := s.Launch(); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(s.Output(), "no member of the existing cluster answers") {
		if !s.Running() {
			t.Fatalf("it ended by itself:\n%s", s.Tail(5))
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := s.Stop(startTimeout); err != nil {
		t.Fatal(err)
	}
}
