package compat

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const startTimeout = 20 * time.Second

// server is one process with its own ports and data directory.
type server struct {
	name    string // "etcd" or "raftd", for messages
	bin     string
	flags   []string
	dir     string
	client  string // host:port
	peerURL string
	cmd     *exec.Cmd
	log     *bytes.Buffer
	exited  chan struct{}
	conn    *grpc.ClientConn
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
	path, err := filepath.Abs(envOr(variable, fallback))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s: %v (set %s; bench/peers/build builds the etcd programs)", variable, err, variable)
	}
	return path
}

// freePort finds a port that nobody has and, as it is below the ephemeral range, no outgoing
// connection will take before the server does. Tests that run side by side draw from different
// tens of thousands, by TEST_SLOT.
func freePort(t testing.TB) int {
	t.Helper()
	first, count := 10000, 20000
	if slot, err := strconv.Atoi(os.Getenv("TEST_SLOT")); err == nil {
		first, count = 10000+slot%2*10000, 10000
	}
	for range 100 {
		port := first + rand.IntN(count)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			listener.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func newServer(t testing.TB, name, bin string, flags []string) *server {
	t.Helper()
	root, err := filepath.Abs("../../build/compat")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, name+"-")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{
		name:    name,
		bin:     bin,
		flags:   flags,
		dir:     dir,
		client:  fmt.Sprintf("127.0.0.1:%d", freePort(t)),
		peerURL: fmt.Sprintf("http://127.0.0.1:%d", freePort(t)),
	}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() && s.log != nil && name == "raftd" {
			t.Logf("end of the log of %s:\n%s", s.name, tail(s.log.String(), 8))
		}
		os.RemoveAll(dir)
	})
	return s
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	for i := range all {
		all[i] = shorten(all[i], 240)
	}
	return strings.Join(all, "\n")
}

func shorten(text string, bytes int) string {
	if len(text) > bytes {
		return text[:bytes] + "..."
	}
	return text
}

// launch starts the process on its data directory; ready waits until it serves.
func (s *server) launch() error {
	args := []string{
		"--name", "one",
		"--data-dir", filepath.Join(s.dir, "data"),
		"--listen-client-urls", "http://" + s.client,
		"--advertise-client-urls", "http://" + s.client,
		"--listen-peer-urls", s.peerURL,
		"--initial-advertise-peer-urls", s.peerURL,
		"--initial-cluster", "one=" + s.peerURL,
	}
	s.cmd = exec.Command(s.bin, append(args, s.flags...)...)
	s.log = &bytes.Buffer{}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait()
		close(exited)
	}(s.cmd)
	conn, err := grpc.NewClient(s.client, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		return err
	}
	s.conn = conn
	return nil
}

func (s *server) ready() error {
	deadline := time.Now().Add(startTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte("ready")})
		cancel()
		if err == nil || status.Code(err) == codes.InvalidArgument { // with auth on it wants a user
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("%s exited while starting:\n%s", s.name, tail(s.log.String(), 15))
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not serve after %v: %v\n%s", s.name, startTimeout, err,
				tail(s.log.String(), 15))
		}
		time.Sleep(20 * time.Millisecond)
		s.conn.ResetConnectBackoff()
	}
}

func (s *server) kill() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	if s.cmd != nil && s.cmd.Process != nil {
		_ = s.cmd.Process.Kill()
		<-s.exited
		s.cmd = nil
	}
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
		peer: newServer(t, "etcd", program(t, "PEER", "../../build/peers/etcd"), flags),
		subject: newServer(t, "raftd", program(t, "RAFTD", "../../build/release/bin/raftd"),
			append(append([]string{}, flags...), strings.Fields(os.Getenv("RAFTD_FLAGS"))...)),
	}
	p.start()
	return p
}

func (p *pair) both() []*server { return []*server{p.peer, p.subject} }

func (p *pair) start() {
	p.t.Helper()
	for _, s := range p.both() {
		if err := s.launch(); err != nil {
			p.t.Fatal(err)
		}
	}
	for _, s := range p.both() {
		if err := s.ready(); err != nil {
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
