package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const startTimeout = 5 * time.Minute

func dialOptions() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1 << 30))}
}

// server is one data directory and the processes that come and go on it.
type server struct {
	bin, ctl string
	dir      string
	client   string // host:port
	peerURL  string
	cmd      *exec.Cmd
	log      *bytes.Buffer
	exited   chan struct{}
	note     string // what the last dump said about the log's end
	conn     *grpc.ClientConn
}

// freePort lies below the ephemeral range: no outgoing connection takes it between two starts.
func freePort() (int, error) {
	for range 100 {
		port := 10000 + rand.IntN(20000)
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			listener.Close()
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port")
}

func program(variable, fallback string) (string, error) {
	if value := os.Getenv(variable); value != "" {
		fallback = value
	}
	path, err := filepath.Abs(fallback)
	if err == nil {
		_, err = os.Stat(path)
	}
	return path, err
}

func newServer() (*server, error) {
	s := &server{}
	var err error
	if s.bin, err = program("RAFTD", "../../build/release/bin/raftd"); err != nil {
		return nil, err
	}
	if s.ctl, err = program("RAFTCTL", "../../build/release/bin/raftctl"); err != nil {
		return nil, err
	}
	root, err := filepath.Abs("../../build/chaos")
	if err != nil {
		return nil, err
	}
	if err = os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp(root, "run-"); err != nil {
		return nil, err
	}
	for _, address := range []*string{&s.client, &s.peerURL} {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		*address = fmt.Sprintf("127.0.0.1:%d", port)
	}
	s.peerURL = "http://" + s.peerURL
	return s, nil
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }

func (s *server) launch(flags ...string) error {
	args := []string{"--name", "one", "--data-dir", s.data(),
		"--listen-client-urls", "http://" + s.client,
		"--advertise-client-urls", "http://" + s.client,
		"--listen-peer-urls", s.peerURL, "--initial-advertise-peer-urls", s.peerURL,
		"--initial-cluster", "one=" + s.peerURL}
	s.cmd = exec.Command(s.bin, append(args, flags...)...)
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
	conn, err := grpc.NewClient(s.client, dialOptions()...)
	s.conn = conn
	return err
}

func (s *server) ready() error {
	for deadline := time.Now().Add(startTimeout); ; {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte("ready")})
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("raftd ended while starting:\n%s", s.tail())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("raftd does not serve after %v: %v\n%s", startTimeout, err, s.tail())
		}
		time.Sleep(5 * time.Millisecond)
		s.conn.ResetConnectBackoff()
	}
}

func (s *server) tail() string {
	lines := strings.Split(strings.TrimRight(s.log.String(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// kill is SIGKILL. An end before it is the server's own doing, and a failure.
func (s *server) kill() error {
	var err error
	select {
	case <-s.exited:
		err = fmt.Errorf("raftd ended by itself:\n%s", s.tail())
	default:
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
	s.conn.Close()
	return err
}

// logged is a line of `raftctl debug log --json`.
type logged struct {
	Index   uint64          `json:"index"`
	Type    string          `json:"type"`
	Request json.RawMessage `json:"request"`
}

// decode gives the request, nil for an entry that holds none.
func (l *logged) decode() (proto.Message, error) {
	var request proto.Message
	switch l.Type {
	case "no_op", "member_publish": // the latter: a member tells its name; no data
		return nil, nil
	case "put":
		request = &pb.PutRequest{}
	case "delete_range":
		request = &pb.DeleteRangeRequest{}
	case "txn":
		request = &pb.TxnRequest{}
	case "compact":
		request = &pb.CompactionRequest{}
	default:
		return nil, fmt.Errorf("entry %d is a %q", l.Index, l.Type)
	}
	return request, protojson.Unmarshal(l.Request, request)
}

// dump calls each for every entry of the stopped node's log from an index on. first is not 0 when
// the log begins only there.
func (s *server) dump(data string, from uint64, each func(*logged) error) (first uint64, err error) {
	cmd := exec.Command(s.ctl, "debug", "log", "--json", "--from", fmt.Sprint(from), data)
	var problem bytes.Buffer
	cmd.Stderr = &problem
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	decoder := json.NewDecoder(bufio.NewReaderSize(out, 1<<20))
	for {
		var line logged
		if err = decoder.Decode(&line); err != nil {
			break
		}
		if err = each(&line); err != nil {
			break
		}
	}
	_, _ = io.Copy(io.Discard, out)
	ended := cmd.Wait()
	if err == io.EOF {
		err = ended
	}
	text := strings.TrimSpace(problem.String())
	if n, _ := fmt.Sscanf(text[strings.LastIndex(text, ":")+1:], " the log begins at index %d", &first); n == 1 {
		return first, nil
	}
	if err != nil {
		return 0, fmt.Errorf("raftctl debug log: %w: %s", err, text)
	}
	s.note = text
	return 0, nil
}

func (s *server) side() string { return filepath.Join(s.dir, "side") }

// keepSegments links every log segment into a directory beside the data. The server may release
// and rename segments while it runs; they are not overwritten before three more are full.
func (s *server) keepSegments() error {
	from, to := filepath.Join(s.data(), "log"), filepath.Join(s.side(), "log")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	segments, err := filepath.Glob(filepath.Join(from, "*.log"))
	if err != nil {
		return err
	}
	sort.Strings(segments)
	for _, segment := range segments {
		err := os.Link(segment, filepath.Join(to, filepath.Base(segment)))
		if err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// keepLog starts a new side directory: the segments, and the ring as it is now.
func (s *server) keepLog() error {
	if err := os.RemoveAll(s.side()); err != nil {
		return err
	}
	ring, err := os.ReadFile(filepath.Join(s.data(), "log", "ring"))
	if os.IsNotExist(err) {
		return nil
	}
	if err == nil {
		err = s.keepSegments()
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(s.side(), "log", "ring"), ring, 0o644)
	}
	return err
}

// tables says how far tables contain the log, and how many there are by level.
func (s *server) tables() (flushed uint64, levels map[uint64]int, err error) {
	out, err := exec.Command(s.ctl, "debug", "manifest", s.data()).Output()
	if err != nil {
		return 0, nil, fmt.Errorf("raftctl debug manifest: %w", err)
	}
	levels = map[uint64]int{}
	level, count := uint64(0), 0
	for _, line := range strings.Split(string(out), "\n") {
		var n uint64
		switch {
		case scan(line, "flushed_index %d", &n):
			flushed = n
		case scan(line, "level %d", &n):
			level = n
		case scan(line, "table %d", &n):
			levels[level]++
			count++
		}
	}
	return flushed, levels, nil
}

func scan(line, format string, n *uint64) bool {
	matched, err := fmt.Sscanf(line, format, n)
	return err == nil && matched == 1
}
