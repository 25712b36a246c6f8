package chaos

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	descriptorLimit = 1024 // of which server/descriptors.h leaves half to files
	clientCrowd     = 1000 // connections that want to be open at any time
	peerCrowd       = 400
	crowdPause      = 300 * time.Millisecond // before who was closed comes again
	rewritten       = 80                     // MiB: memtables of 4 MiB are flushed, a segment of 64 MiB is full
)

// crowd keeps connections to an address open that say nothing; who is closed comes again.
func crowd(ctx context.Context, address string, count int) {
	for range count {
		go func() {
			for ctx.Err() == nil {
				conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
				if err != nil {
					time.Sleep(crowdPause)
					continue
				}
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				_, _ = conn.Read(make([]byte, 1))
				stop()
				conn.Close()
				time.Sleep(crowdPause)
			}
		}()
	}
}

func openDescriptors(t *testing.T, pid int) (all, sockets int) {
	t.Helper()
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		to, _ := os.Readlink(folder + "/" + entry.Name())
		if strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	return len(entries), sockets
}

// Connections never take the descriptors that storage needs: one that it misses would end the process.
func TestDescriptors(t *testing.T) {
	for _, cores := range []string{"1", "4"} {
		t.Run(cores+"cores", func(t *testing.T) {
			s, err := newServer()
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(s.Dir)
			s.Inside = []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, descriptorLimit)}
			if err := s.Launch("--cores", cores, "--memory-limit", "134217728"); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if s.Running() {
					_ = s.Kill()
				}
			}()
			if err := s.ready(); err != nil {
				t.Fatal(err)
			}
			ctx, end := context.WithCancel(context.Background())
			defer end()
			crowd(ctx, s.Client, clientCrowd)
			crowd(ctx, s.Peer, peerCrowd)
			most := 0
			value := make([]byte, 1<<20)
			for i := range rewritten {
				call, cancel := context.WithTimeout(ctx, time.Minute)
				_, err := pb.NewKVClient(s.Conn).Put(call, &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: value})
				cancel()
				if err != nil {
					t.Fatalf("put %d: %v\n%s", i, err, s.Tail(15))
				}
				all, sockets := openDescriptors(t, s.Pid())
				most = max(most, sockets)
				if all > descriptorLimit-100 {
					t.Errorf("%d descriptors are open, %d of them sockets", all, sockets)
				}
			}
			if most < descriptorLimit/4 {
				t.Errorf("no more than %d sockets: the crowd did not come in", most)
			}
			end()
			if err := s.Stop(time.Minute); err != nil {
				t.Fatal(err)
			}
			flushed, levels, err := s.tables()
			if err != nil {
				t.Fatal(err)
			}
			if flushed == 0 {
				t.Errorf("nothing was flushed meanwhile: %v", levels)
			}
			t.Logf("at most %d sockets; flushed up to %d, tables %v", most, flushed, levels)
		})
	}
}
