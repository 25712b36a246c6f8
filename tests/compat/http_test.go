package compat

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"raft/tests/harness"
)

type page struct {
	status int
	body   string
	err    error
}

func fetch(s *server, method, path, body string) page {
	return fetchFrom(s.Client, method, path, body)
}

func fetchFrom(address, method, path, body string) page {
	request, err := http.NewRequest(method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		return page{err: err}
	}
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return page{err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return page{status: response.StatusCode, body: string(text), err: err}
}

// sorted brings lines into one order: etcd lists its checks in that of a Go map.
func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestHTTP(t *testing.T) {
	p := newPair(t)
	for _, c := range []struct {
		why, method, path string
		status            int
		body              bool // equal bodies as well
	}{
		{"health", "GET", "/health", 200, true},
		{"health, local", "GET", "/health?serializable=true", 200, true},
		{"health, without an alarm", "GET", "/health?exclude=NOSPACE", 200, true},
		{"health takes GET only", "POST", "/health", 405, false},
		{"livez", "GET", "/livez", 200, true},
		{"readyz", "GET", "/readyz", 200, true},
		{"livez in full", "GET", "/livez?verbose", 200, true},
		{"readyz in full", "GET", "/readyz?verbose", 200, true},
		{"without one check", "GET", "/readyz?exclude=non_learner", 200, true},
		{"one check", "GET", "/readyz/linearizable_read", 200, true},
		{"one check of livez", "GET", "/livez/serializable_read", 200, true},
		{"a check nobody has", "GET", "/readyz/nothing", 404, false},
		{"version", "GET", "/version", 200, false},
		{"version takes GET only", "POST", "/version", 405, false},
		{"metrics", "GET", "/metrics", 200, false},
		{"a path nobody has", "GET", "/nothing", 404, false},
		{"the root", "GET", "/", 404, false},
	} {
		peer, subject := together(p, func(s *server) page { return fetch(s, c.method, c.path, "") })
		if peer.status != c.status {
			t.Errorf("%s: the peer itself answers %v", c.why, peer)
		}
		if subject.status != peer.status || subject.err != nil || (c.body && sorted(subject.body) != sorted(peer.body)) {
			t.Errorf("%s: %s %s\n etcd %d %s\nraftd %d %s %v", c.why, c.method, c.path, peer.status,
				shorten(peer.body, 300), subject.status, shorten(subject.body, 300), subject.err)
		}
	}
	for _, s := range p.both() {
		var version map[string]string
		text := fetch(s, "GET", "/version", "")
		if err := json.Unmarshal([]byte(text.body), &version); err != nil {
			t.Errorf("%s: /version: %v in %q", s.name, err, text.body)
		}
		var major, minor, patch int
		if n, _ := fmt.Sscanf(version["etcdserver"], "%d.%d.%d", &major, &minor, &patch); n != 3 || major != 3 {
			t.Errorf("%s: /version: %q", s.name, text.body)
		}
		if version["etcdcluster"] != fmt.Sprintf("3.%d.0", minor) || version["storage"] == "" {
			t.Errorf("%s: /version: %q", s.name, text.body)
		}
	}
}

// What --listen-metrics-urls opens tells how the member is, and gives nobody its data.
func TestMetricsPort(t *testing.T) {
	p := newPair(t)
	address := map[*server]string{}
	for _, s := range p.both() {
		port, err := harness.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		address[s] = fmt.Sprintf("127.0.0.1:%d", port)
		s.Flags = append(s.Flags, "--listen-metrics-urls=http://"+address[s])
	}
	p.crash()
	for _, c := range []struct {
		path   string
		status int
	}{{"/metrics", 200}, {"/health", 200}, {"/livez", 200}, {"/readyz", 200}, {"/version", 404}, {"/", 404}} {
		peer, subject := together(p, func(s *server) page { return fetchFrom(address[s], "GET", c.path, "") })
		if peer.status != c.status || subject.status != peer.status {
			t.Errorf("%s\n etcd %d %v\nraftd %d %v", c.path, peer.status, peer.err, subject.status, subject.err)
		}
	}
	peer, subject := together(p, func(s *server) codes.Code {
		conn, err := grpc.NewClient(address[s], harness.DialOptions()...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = pb.NewKVClient(conn).Put(t.Context(), put("a", "1"))
		return status.Code(err)
	})
	if peer != codes.Unavailable || subject != peer {
		t.Errorf("a put\n etcd %v\nraftd %v", peer, subject)
	}
}

// Metrics that the mixin's alerts and dashboards read, with the labels they select by.
func TestMetrics(t *testing.T) {
	p := newPair(t)
	p.run(t, []step{{"something to count", put("a", "1"), nil}, {"", get("a"), nil}, {"", del("a", ""), nil},
		{"", then(put("b", "1")), nil}})
	for _, s := range p.both() {
		text := fetch(s, "GET", "/metrics", "").body
		for _, line := range []string{
			"etcd_server_has_leader 1", "etcd_server_is_leader 1", "etcd_server_leader_changes_seen_total ",
			"etcd_server_proposals_failed_total 0", "etcd_server_proposals_pending ",
			"etcd_server_proposals_committed_total ", "etcd_server_proposals_applied_total ",
			"etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"}", "etcd_disk_wal_fsync_duration_seconds_count ",
			"etcd_disk_backend_commit_duration_seconds_bucket{le=\"0.001\"}",
			"etcd_mvcc_db_total_size_in_bytes ", "etcd_mvcc_db_total_size_in_use_in_bytes ",
			"etcd_server_quota_backend_bytes ",
			"etcd_mvcc_put_total 2", "etcd_mvcc_delete_total 1", "etcd_mvcc_txn_total ", "etcd_mvcc_range_total ",
			"etcd_debugging_mvcc_keys_total ", "etcd_debugging_mvcc_current_revision ", "etcd_server_version{server_version=\"3.",
			"etcd_cluster_version{cluster_version=\"3.", "etcd_server_id{server_id=",
			"etcd_network_client_grpc_received_bytes_total ", "etcd_network_client_grpc_sent_bytes_total ",
			"process_resident_memory_bytes ", "process_cpu_seconds_total ", "process_open_fds ", "process_max_fds ",
			"process_start_time_seconds ", "os_fd_limit ", "os_fd_used ",
			"grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
			"grpc_server_started_total{grpc_method=\"Txn\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
			"grpc_server_msg_received_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
			"grpc_server_msg_sent_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1",
		} {
			if !strings.HasPrefix(text, line) && !strings.Contains(text, "\n"+line) {
				t.Errorf("%s: /metrics lacks %q", s.name, line)
			}
		}
	}
}

// The value of the sample `name`, which has no labels; NaN if there is none.
func sample(text, name string) float64 {
	for _, line := range strings.Split(text, "\n") {
		if number, found := strings.CutPrefix(line, name+" "); found {
			if value, err := strconv.ParseFloat(number, 64); err == nil {
				return value
			}
		}
	}
	return math.NaN()
}

// Times are in seconds, as their names say.
func TestMetricsOfTheProcess(t *testing.T) {
	for _, s := range newPair(t).both() {
		text := fetch(s, "GET", "/metrics", "").body
		now := float64(time.Now().Unix())
		if start := sample(text, "process_start_time_seconds"); !(math.Abs(now-start) < 3600) {
			t.Errorf("%s: started at %v, now is %v", s.name, start, now)
		}
		if used := sample(text, "process_cpu_seconds_total"); !(used >= 0 && used < 3600) {
			t.Errorf("%s: %v seconds of CPU time used", s.name, used)
		}
	}
}

func TestMetricsOfStreams(t *testing.T) {
	for _, s := range newPair(t).both() {
		text := fetch(s, "GET", "/metrics", "").body
		for _, labels := range []string{
			`grpc_method="Snapshot",grpc_service="etcdserverpb.Maintenance",grpc_type="server_stream"`,
			`grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"`,
			`grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"`,
		} {
			if line := "grpc_server_started_total{" + labels + "} "; !strings.Contains(text, "\n"+line) {
				t.Errorf("%s: /metrics lacks %q", s.name, line)
			}
		}
	}
}

func TestGateway(t *testing.T) {
	p := newPair(t)
	for _, c := range []struct {
		why, path, body string
		status          int
	}{
		{"put", "/v3/kv/put", `{"key":"YQ==","value":"MQ==","prev_kv":true}`, 200},
		{"put again, camelCase", "/v3/kv/put", `{"key":"YQ==","value":"Mg==","prevKv":true}`, 200},
		{"range", "/v3/kv/range", `{"key":"YQ=="}`, 200},
		{"range with numbers as strings and enums by name", "/v3/kv/range", `{"key":"AA==","range_end":"AA==","limit":"5","sort_order":"DESCEND","sort_target":"MOD"}`, 200},
		{"enums by number", "/v3/kv/range", `{"key":"AA==","range_end":"AA==","limit":5,"sort_order":1,"sort_target":4}`, 200},
		{"txn", "/v3/kv/txn", `{"compare":[{"target":"VERSION","key":"YQ==","result":"EQUAL","version":"2"}],"success":[{"request_put":{"key":"Yg==","value":"Yg=="}},{"request_range":{"key":"Yg=="}}]}`, 200},
		{"deleterange", "/v3/kv/deleterange", `{"key":"YQ==","prev_kv":true}`, 200},
		{"compaction", "/v3/kv/compaction", `{"revision":"3"}`, 200},
		{"the old prefix", "/v3beta/kv/range", `{"key":"Yg=="}`, 200},
		{"an unknown field", "/v3/kv/range", `{"key":"Yg==","nothing":1}`, 200},
		{"an error: empty key", "/v3/kv/put", `{}`, 400},
		{"an error: compacted", "/v3/kv/range", `{"key":"Yg==","revision":"1"}`, 400},
		{"not JSON", "/v3/kv/range", `{"key":`, 400},
		{"a path nobody has", "/v3/kv/nothing", `{}`, 404},
		{"members", "/v3/cluster/member/list", `{}`, 200},
		{"status", "/v3/maintenance/status", `{}`, 200},
	} {
		shape := strings.HasPrefix(c.path, "/v3/c") || strings.HasPrefix(c.path, "/v3/m")
		peer, subject := together(p, func(s *server) page { return fetch(s, "POST", c.path, c.body) })
		if peer.status != c.status {
			t.Errorf("%s: the peer itself answers %v", c.why, peer)
		}
		same := reflect.DeepEqual(comparable(strings.TrimSpace(peer.body), shape),
			comparable(strings.TrimSpace(subject.body), shape))
		if peer.status == 400 && strings.Contains(c.why, "not JSON") || peer.status == 404 {
			same = true // the text is the Go parser's own
		}
		if subject.status != peer.status || !same {
			t.Errorf("%s: %s %s\n etcd %d %s\nraftd %d %s %v", c.why, c.path, c.body, peer.status, peer.body,
				subject.status, subject.body, subject.err)
		}
	}
}
