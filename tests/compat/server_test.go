package compat

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"raft/tests/harness"
)

const startTimeout = 20 * time.Second

// server is one process with its own ports and data directory.
type server struct {
	*harness.Member
	name string // "etcd" or "raftd", for messages
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

// program resolves a binary named by an environment variable, and fails when it is not there.
func program(t testing.TB, variable, fallback string) string {
	t.Helper()
	path, err := harness.Program(variable, fallback)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func newServer(t testing.TB, name, bin string, flags []string) *server {
	t.Helper()
	dir, err := harness.WorkDir("compat", name+"-")
	if err != nil {
		t.Fatal(err)
	}
	member, err := harness.NewMember("one", bin, dir)
	if err != nil {
		t.Fatal(err)
	}
	member.Flags = flags
	s := &server{Member: member, name: name}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() && name == "raftd" {
			t.Logf("end of the log of %s:\n%s", s.name, s.Tail(8))
		}
		os.RemoveAll(dir)
	})
	return s
}

func (s *server) kill() {
	if s.Running() {
		_ = s.Kill()
	}
	s.Close()
}

// pair is a stock etcd and the program under test, to be driven in step.
type pair struct {
	t       testing.TB
	peer    *server
	subject *server
}

func newPair(t testing.TB, flags ...string) *pair {
	t.Helper()
	p := &pair{
		t:    t,
		peer: newServer(t, "etcd", program(t, "PEER", "build/peers/etcd"), flags),
		subject: newServer(t, "raftd", program(t, "RAFTD", "build/release/bin/raftd"),
			append(append([]string{}, flags...), strings.Fields(os.Getenv("RAFTD_FLAGS"))...)),
	}
	p.start()
	return p
}

func (p *pair) both() []*server { return []*server{p.peer, p.subject} }

func (p *pair) start() {
	p.t.Helper()
	for _, s := range p.both() {
		if err := s.Launch(); err != nil {
			p.t.Fatal(err)
		}
	}
	for _, s := range p.both() {
		if err := s.Ready(startTimeout); err != nil {
			p.t.Fatal(err)
		}
	}
}

// crash kills both without warning and starts them again on the same data.
func (p *pair) crash() {
	p.t.Helper()
	for _, s := range p.both() {
		s.kill()
	}
	p.start()
}

// together runs one call on both servers at the same time.
func together[T any](p *pair, call func(*server) T) (peer, subject T) {
	var wait sync.WaitGroup
	wait.Add(1)
	go func() {
		defer wait.Done()
		subject = call(p.subject)
	}()
	peer = call(p.peer)
	wait.Wait()
	return peer, subject
}
