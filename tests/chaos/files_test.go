package chaos

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// block is a line of `raftctl debug log`.
type block struct {
	segment       string
	offset, bytes int64
	piece         bool // of a large entry
}

// fixture is a data directory of a node that was stopped in order, to be copied and damaged.
type fixture struct {
	server *server
	count  int64 // keys
	blocks []block
}

const (
	earlyKeys = 300 // so many that a start need not look at their rows
	smallKeys = 500
	largeKeys = 110 // a megabyte each: the first log segment is released
)

func newFixture(t *testing.T) *fixture {
	t.Helper()
	s, err := newServer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.Dir) })
	if err = s.Launch("--memory-limit", "134217728"); err == nil {
		err = s.ready()
	}
	if err != nil {
		t.Fatal(err)
	}
	kv := pb.NewKVClient(s.Conn)
	put := func(key string, value []byte) {
		if _, err := kv.Put(context.Background(), &pb.PutRequest{Key: []byte(key), Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := range earlyKeys {
		put(fmt.Sprintf("early/%03d", i), large[:100])
	}
	for i := range largeKeys {
		put(fmt.Sprintf("large/%03d", i), large[:1<<20-i])
	}
	time.Sleep(500 * time.Millisecond) // flushes and releases end
	for i := range smallKeys {
		put(fmt.Sprintf("small/%03d", i), large[:i])
	}
	if err := s.Stop(startTimeout); err != nil {
		t.Fatal(err)
	}
	f := &fixture{server: s, count: earlyKeys + largeKeys + smallKeys}
	out, err := exec.Command(s.ctl, "debug", "log", s.Data()).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		var b block
		if n, _ := fmt.Sscanf(line, "%s offset %d bytes %d", &b.segment, &b.offset, &b.bytes); n == 3 {
			b.piece = strings.Contains(line, " fragment")
			f.blocks = append(f.blocks, b)
		}
	}
	if len(f.blocks) < 100 || f.blocks[0].segment == "0000000001.log" {
		t.Fatalf("%d blocks from %v: the fixture is too small", len(f.blocks), f.blocks[0])
	}
	empty, _ := filepath.Glob(filepath.Join(s.Data(), "log", "*.log"))
	for _, path := range empty { // prepared ahead: of no interest here, and large
		if filepath.Base(path) > f.blocks[len(f.blocks)-1].segment {
			os.Remove(path)
		}
	}
	return f
}

// first and last of the files that match, in the order of their names.
func (f *fixture) files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, _ := filepath.Glob(filepath.Join(dir, pattern))
	if len(found) == 0 {
		t.Fatalf("no %s in %s", pattern, dir)
	}
	sort.Strings(found)
	return found
}

func edit(t *testing.T, path string, offset int64, how func([]byte)) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if info, _ := file.Stat(); offset < 0 {
		offset += info.Size()
	}
	piece := make([]byte, 4096)
	n, _ := file.ReadAt(piece, offset)
	how(piece[:n])
	if _, err := file.WriteAt(piece[:n], offset); err != nil {
		t.Fatal(err)
	}
}

func flip(piece []byte) { piece[0] ^= 0x20 }
func zero(piece []byte) { clear(piece) }

// sums of all files; what every start rewrites is left out: the log's superblocks, and STARTS,
// which counts starts.
func sums(t *testing.T, dir string) map[string]uint32 {
	t.Helper()
	all := map[string]uint32{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if entry.Name() == "ring" {
			content = content[min(8192, len(content)):]
		}
		if entry.Name() != "STARTS" {
			all[path] = crc32.Checksum(content, castagnoli)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

type damage struct {
	why    string
	do     func(t *testing.T, dir string)
	serves bool     // the damage is survived, with every key there
	reads  bool     // it starts, and reads of what is damaged fail with DataLoss
	text   []string // of the refusal
}

func (f *fixture) damages(t *testing.T) []damage {
	blocks := f.blocks
	inBlock := func(b block, at int64, how func([]byte)) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "log", b.segment), b.offset+at, how)
		}
	}
	one := func(pattern string, offset int64, how func([]byte)) func(*testing.T, string) {
		return func(t *testing.T, dir string) { edit(t, f.files(t, dir, pattern)[0], offset, how) }
	}
	cut := func(pattern string, bytes int64) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			path := f.files(t, dir, pattern)[0]
			info, _ := os.Stat(path)
			if err := os.Truncate(path, max(0, info.Size()-bytes)); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(pattern string) func(*testing.T, string) {
		return func(t *testing.T, dir string) { os.Remove(f.files(t, dir, pattern)[0]) }
	}
	at := func(b block) []string {
		return []string{b.segment, fmt.Sprintf("offset %d", b.offset), "restore a backup"}
	}
	named := func(words ...string) []string { return append(words, "restore a backup") }
	first := slices.IndexFunc(blocks, func(b block) bool { return !b.piece })
	middle, last := blocks[len(blocks)/2], blocks[len(blocks)-1]
	both := func(t *testing.T, dir string) {
		edit(t, filepath.Join(dir, "log/ring"), 20, flip)
		edit(t, filepath.Join(dir, "log/ring"), 4096+20, flip)
	}
	return []damage{
		{why: "log: payload of an early block", do: inBlock(blocks[first], 170, flip), text: at(blocks[first])},
		{why: "log: a piece of a large entry", do: inBlock(blocks[first-3], 5000, flip), text: named(blocks[first].segment, "offset")},
		{why: "log: payload in the middle", do: inBlock(middle, 200, flip), text: at(middle)},
		{why: "log: header in the middle", do: inBlock(middle, 20, flip), text: at(middle)},
		{why: "log: a page of zeros in the middle", do: inBlock(middle, 0, zero), text: at(middle)},
		{why: "log: payload of the last block", do: inBlock(last, 170, flip), text: at(last)},
		{why: "log: the last block gone", do: inBlock(last, 0, zero), text: at(last)},
		{why: "log: a segment cut short", do: cut("log/*.log", 4096), text: named(blocks[0].segment, "offset", "wrong size")},
		{why: "log: a segment missing", do: remove("log/*.log"), text: named(blocks[0].segment, "missing")},
		{why: "ring: one superblock", do: one("log/ring", 20, flip), serves: true},
		{why: "ring: both superblocks", do: both, text: named("log/ring at offset 0", "superblocks")},
		{why: "ring: a header that its block has too", do: one("log/ring", 8192+20, flip), serves: true},
		{why: "ring: cut short", do: cut("log/ring", 4096), text: named("log/ring at offset", "wrong size")},
		{why: "ring: missing", do: remove("log/ring"), text: named("ring file is missing")},
		{why: "table: magic in the footer", do: one("lsm/*.sst", -4, flip), text: named(".sst", "offset")},
		{why: "table: footer", do: one("lsm/*.sst", -40, flip), text: named(".sst", "offset", "footer")},
		{why: "table: cut short", do: cut("lsm/*.sst", 4096), text: named(".sst", "offset")},
		{why: "table: one byte short", do: cut("lsm/*.sst", 1), text: named(".sst", "offset", "size")},
		{why: "table: missing", do: remove("lsm/*.sst"), text: named(".sst", "No such file")},
		{why: "table: a block of rows", do: one("lsm/*.sst", 100, flip), reads: true},
		{why: "manifest: first record", do: one("lsm/MANIFEST-*", 40, flip), text: named("MANIFEST-", "offset 0", "damaged")},
		{why: "manifest: a record that others follow", do: one("lsm/MANIFEST-*", 4096+40, flip), text: named("MANIFEST-", "offset 4096", "damaged")},
		{why: "manifest: all but the first record gone", do: func(t *testing.T, dir string) {
			path := f.files(t, dir, "lsm/MANIFEST-*")[0]
			for offset := int64(4096); offset < 32*4096; offset += 4096 {
				edit(t, path, offset, zero)
			}
		}, text: named("/lsm", "tables_last 0", "log_first")},
		{why: "manifest: empty", do: cut("lsm/MANIFEST-*", 1<<30), text: named("MANIFEST-", "offset 0")},
		{why: "manifest: missing", do: remove("lsm/MANIFEST-*"), text: named("MANIFEST-", "No such file")},
		{why: "CURRENT: a flipped bit", do: one("lsm/CURRENT", 9, flip), text: named("lsm/CURRENT", "offset 0")},
		{why: "CURRENT: empty", do: cut("lsm/CURRENT", 100), text: named("lsm/CURRENT", "offset 0")},
		{why: "CURRENT: missing", do: remove("lsm/CURRENT"), text: named("/lsm", "restore")},
		{why: "IDENTITY: magic", do: one("IDENTITY", 0, flip), text: []string{"IDENTITY at offset 0", "restore the file"}},
		{why: "IDENTITY: member id", do: one("IDENTITY", 24, flip), text: []string{"IDENTITY at offset", "checksum", "restore the file"}},
		{why: "IDENTITY: format", do: one("IDENTITY", 8, flip), text: []string{"IDENTITY", "format", "matching version"}},
		{why: "IDENTITY: cut short", do: cut("IDENTITY", 1), text: []string{"IDENTITY at offset 0", "restore the file"}},
		{why: "STARTS: count", do: one("STARTS", 16, flip), text: []string{"STARTS at offset 12", "restore the file"}},
		{why: "IDENTITY: missing", do: remove("IDENTITY"), text: []string{"no IDENTITY", "restore the file"}},
	}
}

// refused starts raftd, which has to end by itself with every word in its last line.
func (s *server) refused(words []string) string {
	if err := s.Launch("--memory-limit", "134217728", "--log-level", "error"); err != nil {
		return err.Error()
	}
	s.Close()
	select {
	case <-s.Exited():
	case <-time.After(startTimeout):
		_ = s.Kill()
		return "it started"
	}
	text := s.Output()
	text = text[max(0, strings.LastIndex(text, "raftd: ")):]
	if s.ExitCode() != 1 {
		return fmt.Sprintf("exit code %d: %s", s.ExitCode(), s.Output())
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			return fmt.Sprintf("the refusal lacks %q: %s", word, text)
		}
	}
	return ""
}

// survived starts raftd, which has to have every key, or to say DataLoss when `reads`.
func (s *server) survived(count int64, reads bool) string {
	if err := s.Launch("--memory-limit", "134217728", "--log-level", "error"); err != nil {
		return err.Error()
	}
	defer func() { _ = s.Kill() }()
	if err := s.ready(); err != nil {
		return err.Error()
	}
	all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	reply, err := pb.NewKVClient(s.Conn).Range(context.Background(), all)
	if reads {
		if err == nil || !strings.Contains(err.Error(), "DataLoss") {
			return fmt.Sprintf("a read of a damaged block: %v", err)
		}
		return ""
	}
	if err != nil || int64(len(reply.Kvs)) != count {
		return fmt.Sprintf("%d keys of %d: %v", len(reply.GetKvs()), count, err)
	}
	return ""
}

func TestDamagedFiles(t *testing.T) {
	f := newFixture(t)
	for _, d := range f.damages(t) {
		t.Run(d.why, func(t *testing.T) {
			s, err := newServer()
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(s.Dir)
			if out, err := exec.Command("cp", "-r", "--sparse=always", f.server.Data(), s.Data()).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			d.do(t, s.Data())
			before := sums(t, s.Data())
			if d.serves || d.reads {
				if text := s.survived(f.count, d.reads); text != "" {
					t.Error(text)
				}
				return
			}
			if text := s.refused(d.text); text != "" {
				t.Error(text)
			}
			after := sums(t, s.Data())
			for path, sum := range before {
				// Tables are opened before a damaged log is judged: they tell whether other members
				// may have copies. They begin a manifest of the same content.
				if strings.HasPrefix(d.why, "log: ") && (filepath.Base(path) == "CURRENT" || strings.HasPrefix(filepath.Base(path), "MANIFEST-")) {
					continue
				}
				if again, is := after[path]; !is || again != sum {
					t.Errorf("the attempt changed %s (there: %v)", path, is)
				}
			}
			if text := s.refused(d.text); text != "" {
				t.Errorf("second attempt: %s", text)
			}
		})
	}
}
