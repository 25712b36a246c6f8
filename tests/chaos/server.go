package chaos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"raft/tests/harness"
)

const startTimeout = 5 * time.Minute

// server is a lone member, and raftctl to read what it left.
type server struct {
	*harness.Member
	ctl  string
	note string // what the last dump said about the log's end
}

func newServer() (*server, error) {
	s := &server{}
	bin, err := harness.Raftd()
	if err != nil {
		return nil, err
	}
	if s.ctl, err = harness.Program("RAFTCTL", "build/release/bin/raftctl"); err != nil {
		return nil, err
	}
	dir, err := harness.WorkDir("chaos", "run-")
	if err != nil {
		return nil, err
	}
	s.Member, err = harness.NewMember("one", bin, dir)
	return s, err
}

func (s *server) ready() error { return s.Ready(startTimeout) }

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

func (s *server) side() string { return filepath.Join(s.Dir, "side") }

// keepSegments links every log segment into a directory beside the data. The server may release
// and rename segments while it runs; they are not overwritten before three more are full.
func (s *server) keepSegments() error {
	from, to := filepath.Join(s.Data(), "log"), filepath.Join(s.side(), "log")
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
	ring, err := os.ReadFile(filepath.Join(s.Data(), "log", "ring"))
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
	out, err := exec.Command(s.ctl, "debug", "manifest", s.Data()).Output()
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
