package compat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// command is one etcdctl call; what it prints and its exit code have to be equal.
type command struct {
	why   string
	input string
	args  []string
	shape bool // compare the shape of the output only: it holds sizes, ids and the like
	since int  // minor version of the etcdctl that has it
}

func cmd(why string, args ...string) command { return command{why: why, args: args} }

type printed struct {
	stdout, stderr string
	exit           int
}

func etcdctl(bin string, s *server, c command) printed {
	run := exec.Command(bin, append([]string{"--endpoints", s.Client}, c.args...)...)
	run.Env = []string{"ETCDCTL_API=3", "HOME=/nonexistent"}
	run.Stdin = strings.NewReader(c.input)
	var out, failures bytes.Buffer
	run.Stdout, run.Stderr = &out, &failures
	p := printed{}
	if err := run.Run(); err != nil {
		var status *exec.ExitError
		if !errors.As(err, &status) {
			p.stderr = err.Error()
		}
		p.exit = run.ProcessState.ExitCode()
	}
	p.stdout = strings.ReplaceAll(out.String(), s.Client, "ENDPOINT")
	// 3.7 adds its own log, with times, to the error it prints.
	for _, line := range strings.Split(failures.String(), "\n") {
		if strings.HasPrefix(line, "Error") {
			p.stderr += strings.ReplaceAll(line, s.Client, "ENDPOINT") + "\n"
		}
	}
	return p
}

var identities = map[string]bool{"cluster_id": true, "member_id": true, "raft_term": true}

// plainJSON removes identities, and with shape every number and string but revisions.
func plainJSON(value any, shape bool) any {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			switch {
			case identities[name]:
				v[name] = "some"
			case shape && name != "revision":
				v[name] = plainJSON(inner, true)
			default:
				v[name] = plainJSON(inner, shape && name != "revision")
			}
		}
	case []any:
		for i := range v {
			v[i] = plainJSON(v[i], shape)
		}
	case float64, string:
		if shape {
			return "some"
		}
	}
	return value
}

var word = regexp.MustCompile(`[^\s,]+( (B|kB|MB|GB))?`)

// comparable turns output into what has to be equal.
func comparable(text string, shape bool) any {
	var parsed any
	decoder := json.NewDecoder(strings.NewReader(text))
	if strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[") {
		if err := decoder.Decode(&parsed); err == nil {
			return plainJSON(parsed, shape)
		}
	}
	if shape {
		return word.ReplaceAllString(text, "x")
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		for _, id := range []string{`"ClusterID"`, `"MemberID"`, `"RaftTerm"`} { // -w fields
			if strings.HasPrefix(line, id) {
				lines[i] = id
			}
		}
	}
	return strings.Join(lines, "\n")
}

func testEtcdctl(t *testing.T, bin string, minor int) {
	p := newPair(t)
	txn := func(why, input string, args ...string) command {
		return command{why: why, input: input, args: append([]string{"txn"}, args...)}
	}
	for _, c := range []command{
		cmd("status of nothing", "endpoint", "status"),
		cmd("put", "put", "a", "1"),
		cmd("put as JSON", "put", "a", "2", "-w", "json"),
		cmd("put with the previous pair", "put", "a", "3", "--prev-kv"),
		cmd("and as JSON", "put", "a", "4", "--prev-kv", "-w", "json"),
		{why: "put from standard input", input: "from stdin", args: []string{"put", "stdin"}},
		cmd("put, ignoring the value", "put", "a", "--ignore-value"),
		cmd("put of a missing key, ignoring the value", "put", "missing", "--ignore-value"),
		cmd("put with an unknown lease", "put", "a", "5", "--lease", "123abc"),
		cmd("put of an empty key", "put", "", "x"),
		cmd("binary", "put", "b\xff\n", "\x01\x02"),
		cmd("more", "put", "ab", "6"), cmd("more", "put", "b", "7"), cmd("more", "put", "c", "8"),
		cmd("get", "get", "a"),
		cmd("get as JSON", "get", "a", "-w", "json"),
		cmd("get as fields", "get", "a", "-w", "fields"),
		cmd("get as a hex dump", "get", "b", "--prefix", "--hex"),
		cmd("get of a missing key", "get", "missing"),
		cmd("get of a missing key as JSON", "get", "missing", "-w", "json"),
		cmd("get of a prefix", "get", "a", "--prefix"),
		cmd("get of an interval", "get", "a", "c"),
		cmd("get from a key on", "get", "b", "--from-key"),
		cmd("get of everything", "get", "", "--prefix", "-w", "json"),
		cmd("get, limited", "get", "", "--prefix", "--limit", "2", "-w", "json"),
		cmd("get, descending", "get", "", "--prefix", "--order", "DESCEND"),
		cmd("get, by modification", "get", "", "--prefix", "--sort-by", "MODIFY", "--order", "DESCEND"),
		cmd("get, by version", "get", "", "--prefix", "--sort-by", "VERSION", "--order", "DESCEND", "--limit", "1"),
		cmd("get, keys only", "get", "", "--prefix", "--keys-only"),
		cmd("get, values only", "get", "", "--prefix", "--print-value-only"),
		cmd("get at an old revision", "get", "a", "--rev", "3", "-w", "json"),
		cmd("get at a future revision", "get", "a", "--rev", "1000"),
		cmd("get, serializable", "get", "a", "--consistency", "s"),
		{why: "get, count only", args: []string{"get", "", "--prefix", "--count-only", "-w", "fields"}, since: 5},
		{why: "get by revisions", args: []string{"get", "", "--prefix", "--min-mod-rev", "6", "--max-mod-rev", "8"}, since: 6},
		{why: "get as a stream", args: []string{"get", "", "--prefix", "--stream"}, since: 7},
		txn("txn: the compare holds", "value(\"a\") = \"4\"\n\nput t yes\nget a\n\nput t no\n\n"),
		txn("txn: it does not", "value(\"a\") = \"5\"\n\nput t yes\n\nget a\ndel t\n\n"),
		txn("txn as JSON", "mod(\"a\") > \"1\"\ncreate(\"a\") = \"2\"\nver(\"a\") > \"3\"\n\nput t json\ndel b --prev-kv\nget a --prefix\n\nget b\n\n", "-w", "json"),
		txn("txn: duplicate key", "\nput t 1\nput t 2\n\n\n"),
		cmd("del", "del", "ab"),
		cmd("del of a missing key", "del", "missing"),
		cmd("del with the previous pair", "del", "c", "--prev-kv"),
		cmd("del of a prefix as JSON", "del", "b", "--prefix", "--prev-kv", "-w", "json"),
		cmd("compaction", "compaction", "8"),
		cmd("again", "compaction", "8"),
		cmd("of the future", "compaction", "1000"),
		cmd("physical", "compaction", "10", "--physical"),
		cmd("get of what is compacted", "get", "a", "--rev", "5"),
		cmd("status as JSON", "endpoint", "status", "-w", "json"),
		cmd("status", "endpoint", "status"),
		cmd("hash as JSON", "endpoint", "hashkv", "-w", "json"),
		cmd("hash", "endpoint", "hashkv"),
		cmd("health", "endpoint", "health", "-w", "json"),
		cmd("members", "member", "list", "-w", "json"),
		cmd("alarms", "alarm", "list"),
		cmd("everything in the end", "get", "", "--from-key", "-w", "json"),
	} {
		if c.since > minor {
			continue // this etcdctl does not have the command; the other one runs it
		}
		switch c.args[0] {
		case "endpoint", "member":
			c.shape = true
		}
		peer, subject := together(p, func(s *server) printed { return etcdctl(bin, s, c) })
		if peer.exit != subject.exit || peer.stderr != subject.stderr || !reflect.DeepEqual(
			comparable(peer.stdout, c.shape), comparable(subject.stdout, c.shape)) {
			t.Errorf("%s: etcdctl %q\n etcd exit %d\n%s%s\nraftd exit %d\n%s%s", c.why, c.args,
				peer.exit, peer.stdout, peer.stderr, subject.exit, subject.stdout, subject.stderr)
		}
		if peer.exit != 0 && !strings.HasPrefix(peer.stderr, "Error: etcdserver: ") {
			t.Errorf("%s: etcdctl %q does not reach the server: the row is wrong", c.why, c.args)
		}
	}
}

func TestEtcdctl(t *testing.T) {
	for _, bin := range []string{program(t, "ETCDCTL", "build/peers/etcdctl"),
		program(t, "ETCDCTL_OLD", "/usr/bin/etcdctl")} {
		run := exec.Command(bin, "version")
		run.Env = []string{"ETCDCTL_API=3"}
		out, err := run.Output()
		if err != nil {
			t.Fatal(err)
		}
		minor := 0
		if _, err := fmt.Sscanf(string(out), "etcdctl version: 3.%d", &minor); err != nil {
			t.Fatalf("%s: %v in %q", filepath.Base(bin), err, out)
		}
		t.Run(fmt.Sprintf("3.%d", minor), func(t *testing.T) { testEtcdctl(t, bin, minor) })
	}
}
