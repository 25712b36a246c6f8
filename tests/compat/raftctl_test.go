package compat

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"raft/tests/harness"
)

// raftctl beside the etcdctl of the same version. Every command goes to a stock etcd by etcdctl and
// to raftd by raftctl; what only reads is also asked of raftd by both programs, and then the output
// has to be the same to the byte.
func TestRaftctl(t *testing.T) {
	raftctl := program(t, "RAFTCTL", "build/release/bin/raftctl")
	stock := program(t, "ETCDCTL", "build/peers/etcdctl")
	p := newPair(t)
	txn := func(why, input string, args ...string) command {
		return command{why: why, input: input, args: append([]string{"txn"}, args...)}
	}
	formats := []string{"simple", "json", "fields", "protobuf"}
	commands := []command{
		cmd("put", "put", "a", "1"),
		cmd("put with the previous pair", "put", "a", "2", "--prev-kv"),
		cmd("as JSON", "put", "a", "3", "--prev-kv", "-w", "json"),
		cmd("as fields", "put", "a", "4", "--prev-kv", "-w=fields"),
		cmd("as hexadecimal", "put", "a", "4", "--prev-kv=true", "--hex"),
		{why: "from standard input", input: "two\nlines\n", args: []string{"put", "stdin"}},
		cmd("nothing on standard input", "put", "stdin"),
		cmd("ignoring the value", "put", "a", "--ignore-value"),
		cmd("both value and --ignore-value", "put", "a", "1", "--ignore-value"),
		cmd("ignoring the lease", "put", "a", "5", "--ignore-lease"),
		cmd("ignoring the value of no key", "put", "missing", "--ignore-value"),
		cmd("unknown lease", "put", "a", "5", "--lease", "123abc"),
		cmd("a lease that is no number", "put", "a", "5", "--lease", "xyz"),
		cmd("empty key", "put", "", "x"),
		cmd("a value like a flag", "put", "dash", "--", "-v"),
		cmd("no key", "put"),
		cmd("escapes", "put", "esc\a\b\f\n\r\t\v\x1f\x7f\"\\", "<&>\xff\xc3\xa9\xe2\x80\xa8\xf0\x9f\x98\x80\xed\xa0\x80\u00a0"),
		cmd("a prefix that ends in ff", "put", "p\xff", "x"),
		cmd("more", "put", "ab", "6"), cmd("more", "put", "b", "7"), cmd("more", "put", "c", "8"),

		txn("the compare holds", "value(\"a\") = \"5\"\n\nput t yes\nget a\n\nput t no\n\n"),
		txn("it does not", "value(\"a\") = \"4\"\n\nput t yes\n\nget a\ndel t\n\n"),
		txn("every target and operator", "ver(\"a\") > \"0\"\nversion(\"a\") != \"0\"\nc(\"a\") = \"2\"\ncreate(\"a\") < \"9\"\nm(\"a\") > \"1\"\nmod(\"a\") > \"1\"\nval(\"a\") > \"0\"\n\nget a\n\n\n"),
		txn("as JSON", "mod(\"a\") > \"1\"\n\nput t json\ndel b --prev-kv\nget a --prefix\n\nget b\n\n", "-w", "json"),
		txn("as fields", "\nput t fields --prev-kv\ndel c --prev-kv\nget '' --prefix\n\n\n", "-w", "fields"),
		txn("interactive", "\nget a\n\n\n", "-i"),
		txn("quoted words", "value(`a`) = \"5\"\n\nput \"q \\x41\\n\\u00e9\" 'single \"quoted\"'\nget \"q \" --prefix\n\n\n"),
		txn("duplicate key", "\nput t 1\nput t 2\n\n\n"),
		txn("nothing", "\n\n\n"),
		txn("the text ends early", "\nput t 1\n"),
		txn("a compare of an unknown target", "size(\"a\") = \"1\"\n\n\n\n"),
		txn("a compare with a bad number", "mod(\"a\") = \"x\"\n\n\n\n"),
		txn("an unknown request", "\nwatch a\n\n\n"),
		txn("a request without a key", "\nput\n\n\n"),
		txn("a request with an unknown flag", "\nget a --nope\n\n\n"),
		txn("an argument", "", "x"),

		cmd("one key", "get", "a"), cmd("no such key", "get", "missing"), cmd("no key at all", "get"),
		cmd("a prefix", "get", "a", "--prefix"), cmd("a prefix of ff", "get", "p\xff", "--prefix"),
		cmd("an interval", "get", "a", "c"), cmd("from a key on", "get", "b", "--from-key"),
		cmd("all", "get", "", "--prefix"), cmd("all", "get", "--from-key", ""),
		cmd("hexadecimal", "get", "", "--prefix", "--hex"),
		cmd("limited", "get", "", "--prefix", "--limit", "2"),
		cmd("descending", "get", "", "--prefix", "--order", "descend"),
		cmd("by modification", "get", "", "--prefix", "--sort-by", "modify", "--order=DESCEND"),
		cmd("by version", "get", "", "--prefix", "--sort-by", "VERSION", "--limit=1"),
		cmd("by value", "get", "", "--prefix", "--sort-by", "VALUE"),
		cmd("by creation", "get", "", "--prefix", "--sort-by", "CREATE"),
		cmd("keys only", "get", "", "--prefix", "--keys-only"),
		cmd("values only", "get", "", "--prefix", "--print-value-only"),
		cmd("count only", "get", "", "--prefix", "--count-only"),
		cmd("both only", "get", "a", "--keys-only", "--count-only"),
		cmd("an old revision", "get", "a", "--rev", "3"), cmd("the future", "get", "a", "--rev", "1000"),
		cmd("serializable", "get", "a", "--consistency", "s"),
		cmd("an unknown consistency", "get", "a", "--consistency", "x"),
		cmd("modified within", "get", "", "--prefix", "--min-mod-rev", "3", "--max-mod-rev", "9"),
		cmd("created within", "get", "", "--prefix", "--min-create-rev", "3", "--max-create-rev", "9"),
		cmd("bounds the wrong way round", "get", "", "--prefix", "--min-mod-rev", "9", "--max-mod-rev", "3"),
		cmd("an unknown order", "get", "a", "--order", "up"), cmd("an unknown target", "get", "a", "--sort-by", "size"),
		cmd("prefix and from-key", "get", "a", "--prefix", "--from-key"),
		cmd("prefix and an interval", "get", "a", "b", "--prefix"),
		cmd("a limit that is no number", "get", "a", "--limit", "x"),
		cmd("a limit without its number", "get", "a", "--limit"),
		cmd("an unknown flag", "get", "a", "--nope"),
		cmd("an unknown letter", "get", "a", "-z"),
		cmd("an unknown format", "get", "a", "-w", "xml"), cmd("a format for tables only", "get", "a", "-w", "table"),

		cmd("del", "del", "ab"), cmd("of no key", "del", "missing"), cmd("without a key", "del"),
		cmd("with the previous pair", "del", "a", "--prev-kv"),
		cmd("of an interval", "del", "b", "d", "--range"),
		cmd("of a prefix, as JSON", "del", "p", "--prefix", "--prev-kv", "-w", "json"),
		cmd("from a key on, as fields", "del", "t", "--from-key", "--prev-kv", "-w", "fields"),
		cmd("compaction", "compaction", "8"), cmd("again", "compaction", "8"),
		cmd("of the future", "compaction", "1000"), cmd("physical", "compaction", "10", "--physical"),
		cmd("of no number", "compaction", "x"), cmd("of nothing", "compaction"),
		cmd("what is compacted", "get", "a", "--rev", "5"),
	}
	for _, c := range commands {
		peer := etcdctl(stock, p.peer, c)
		subject := etcdctl(raftctl, p.subject, c)
		if peer.exit != subject.exit || !reflect.DeepEqual(comparable(peer.stdout, false),
			comparable(subject.stdout, false)) || peer.stderr != subject.stderr {
			t.Errorf("%s: %q\netcdctl exit %d\n%s%s\nraftctl exit %d\n%s%s", c.why, c.args,
				peer.exit, peer.stdout, peer.stderr, subject.exit, subject.stdout, subject.stderr)
		}
		if c.args[0] == "get" {
			for _, format := range formats {
				sameBytes(t, p.subject, stock, raftctl, c, "-w", format)
				sameBytes(t, p.subject, stock, raftctl, c, "--hex", "--write-out", format)
			}
		}
	}
	for _, format := range append(formats, "table") {
		status := cmd("status", "endpoint", "status")
		sameBytes(t, p.subject, stock, raftctl, status, "-w", format)
	}
	unreachable := cmd("nobody listens", "--endpoints", "127.0.0.1:1", "get", "a", "--command-timeout", "300ms")
	sameBytes(t, &server{Member: &harness.Member{Client: "127.0.0.1:1"}}, stock, raftctl, unreachable)
	raftctlEndpoints(t, p.subject, stock, raftctl)
	raftctlFullOutput(t, raftctl, "--endpoints", p.subject.Client, "get", "", "--prefix")
}

// raftctlEndpoints names one server in all ways that etcdctl knows.
func raftctlEndpoints(t *testing.T, s *server, stock, raftctl string) {
	t.Helper()
	port := s.Client[strings.LastIndex(s.Client, ":"):]
	for _, endpoints := range []string{s.Client + ",", "," + s.Client, port, "http://" + port, "http://" + s.Client} {
		named := &server{Member: &harness.Member{Client: endpoints}}
		sameBytes(t, named, stock, raftctl, cmd("endpoints "+endpoints, "get", "", "--prefix"))
	}
	for _, args := range [][]string{{"get", "a"}, {"endpoint", "status"}} {
		if none := etcdctl(raftctl, &server{Member: &harness.Member{Client: ","}}, cmd("none", args...)); none.exit != 128 {
			t.Errorf("no endpoint at all: %q: exit %d, %s", args, none.exit, none.stderr)
		}
	}
}

func TestRaftctlFullOutput(t *testing.T) {
	raftctl := program(t, "RAFTCTL", "build/release/bin/raftctl")
	raftctlFullOutput(t, raftctl, "--help")
	raftctlFullOutput(t, raftctl, "get", "--help")
}

// raftctlFullOutput gives the program an output that takes nothing: that it must not pass over.
func raftctlFullOutput(t *testing.T, raftctl string, args ...string) {
	t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	run := exec.Command(raftctl, args...)
	var failures strings.Builder
	run.Stdout, run.Stderr = full, &failures
	want := "Error: standard output could not be written: No space left on device\n"
	if err := run.Run(); run.ProcessState.ExitCode() != 1 || failures.String() != want {
		t.Errorf("%q > /dev/full: %v, %s", args, err, failures.String())
	}
}

// sameBytes asks one server by both programs, with `more` before what the command already says.
func sameBytes(t *testing.T, s *server, stock, raftctl string, c command, more ...string) {
	t.Helper()
	c.args = append(append([]string{}, more...), c.args...)
	want, got := etcdctl(stock, s, c), etcdctl(raftctl, s, c)
	if want != got {
		t.Errorf("%s: %q of one server\netcdctl exit %d\n%q %s\nraftctl exit %d\n%q %s", c.why, c.args,
			want.exit, want.stdout, want.stderr, got.exit, got.stdout, got.stderr)
	}
}

// A mistyped directory is not an empty member: whoever chooses the survivor of a lost majority by
// `debug log` has to hear of it.
func TestRaftctlDebugNeedsDataDirectory(t *testing.T) {
	raftctl := program(t, "RAFTCTL", "build/release/bin/raftctl")
	root := t.TempDir()
	file, missing := filepath.Join(root, "file"), filepath.Join(root, "missing")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ why, directory, want string }{
		{"no such directory", missing, missing + ": No such file or directory; give the --data-dir"},
		{"a file", file, file + ": Not a directory; give the --data-dir"},
		{"not of a member", root, ": No such file or directory; " + root + " is not the --data-dir of a raftd"},
	} {
		for _, args := range [][]string{{"log"}, {"log", "--json"}, {"manifest"}} {
			args = append(append([]string{"debug"}, args...), c.directory)
			out, err := exec.Command(raftctl, args...).Output()
			failed, ok := err.(*exec.ExitError)
			if !ok || failed.ExitCode() != 1 || len(out) != 0 || !strings.Contains(string(failed.Stderr), c.want) {
				t.Errorf("%s: %q: %v, output %q", c.why, args, err, out)
			}
		}
	}
	_, err := exec.Command(raftctl, "debug", "log", "--from", "1", root).Output()
	if failed, ok := err.(*exec.ExitError); !ok || failed.ExitCode() != 128 || !strings.Contains(string(failed.Stderr), "--json") {
		t.Errorf("debug log --from without --json: %v", err)
	}
	table := filepath.Join(missing, "lsm", "000001.sst")
	if _, err := exec.Command(raftctl, "debug", "sst", table).Output(); err == nil {
		t.Error("debug sst of a missing file succeeds")
	} else if failed := err.(*exec.ExitError); failed.ExitCode() != 1 || !strings.Contains(string(failed.Stderr), table) {
		t.Errorf("debug sst of a missing file: %v, %s", err, failed.Stderr)
	}
}
