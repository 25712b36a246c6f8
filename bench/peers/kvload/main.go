// kvload does over gRPC what bench/compare needs besides a benchmark proper: it fills a store with
// numbered keys, reads all of it in one range, and waits for the first successful get. It can also
// stand in for raftbench as an independent, if slower, closed-loop generator.
//
//	kvload fill  ADDRESS COUNT VALUE_BYTES
//	kvload range ADDRESS
//	kvload first ADDRESS TIMEOUT_SECONDS
//	kvload bench ADDRESS put|get|get-serializable CONNS INFLIGHT VALUE_BYTES SECONDS
//
// Each prints one JSON object.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	fillConns    = 4
	fillInflight = 64
	benchKeys    = 10000
)

func fail(err error) {
	fmt.Fprintln(os.Stderr, "kvload:", err)
	os.Exit(1)
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n <= 0 {
		fail(fmt.Errorf("%q is not a positive number", text))
	}
	return n
}

func connect(address string) *grpc.ClientConn {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<31-1)))
	if err != nil {
		fail(err)
	}
	return conn
}

// value is of full entropy per key, so that compression helps nobody by accident.
func value(index, bytes int) []byte {
	v := make([]byte, bytes)
	state := uint64(index)*0x9e3779b97f4a7c15 + 1
	for i := range v {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		v[i] = byte(state)
	}
	return v
}

func key(index int) []byte { return []byte(fmt.Sprintf("/load/%012d", index)) }

// workers runs conns x inflight goroutines; each call gets the client of its connection.
func workers(address string, conns, inflight int, work func(worker int, kv pb.KVClient)) {
	var wait sync.WaitGroup
	for c := range conns {
		kv := pb.NewKVClient(connect(address))
		for i := range inflight {
			wait.Add(1)
			go func() {
				defer wait.Done()
				work(c*inflight+i, kv)
			}()
		}
	}
	wait.Wait()
}

func fill(address string, count, bytes int) map[string]any {
	var next, errors atomic.Int64
	start := time.Now()
	workers(address, fillConns, fillInflight, func(_ int, kv pb.KVClient) {
		for {
			index := int(next.Add(1)) - 1
			if index >= count {
				return
			}
			if _, err := kv.Put(context.Background(), &pb.PutRequest{Key: key(index), Value: value(index, bytes)}); err != nil {
				errors.Add(1)
				fmt.Fprintln(os.Stderr, "kvload:", err)
				return
			}
		}
	})
	if errors.Load() > 0 {
		os.Exit(1)
	}
	return map[string]any{"puts": count, "seconds": time.Since(start).Seconds()}
}

func readAll(address string) map[string]any {
	start := time.Now()
	r, err := pb.NewKVClient(connect(address)).Range(context.Background(),
		&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		fail(err)
	}
	bytes := 0
	for _, kv := range r.Kvs {
		bytes += len(kv.Key) + len(kv.Value)
	}
	return map[string]any{"keys": len(r.Kvs), "bytes": bytes, "seconds": time.Since(start).Seconds()}
}

func first(address string, timeout time.Duration) map[string]any {
	start := time.Now()
	for time.Since(start) < timeout {
		conn := connect(address)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		r, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: key(0)})
		cancel()
		conn.Close()
		if err == nil {
			return map[string]any{"found": len(r.Kvs), "seconds": time.Since(start).Seconds()}
		}
		time.Sleep(2 * time.Millisecond)
	}
	fail(fmt.Errorf("no answer within %v", timeout))
	return nil
}

func bench(address, op string, conns, inflight, bytes int, span time.Duration) map[string]any {
	latencies := make([][]time.Duration, conns*inflight)
	var errors atomic.Int64
	start := time.Now()
	workers(address, conns, inflight, func(worker int, kv pb.KVClient) {
		v := value(worker, bytes)
		for i := worker; time.Since(start) < span; i += conns * inflight {
			var err error
			begin := time.Now()
			if op == "put" {
				_, err = kv.Put(context.Background(), &pb.PutRequest{Key: key(i % benchKeys), Value: v})
			} else {
				_, err = kv.Range(context.Background(), &pb.RangeRequest{Key: key(i % benchKeys),
					Serializable: op == "get-serializable"})
			}
			if err != nil {
				errors.Add(1)
				continue
			}
			latencies[worker] = append(latencies[worker], time.Since(begin))
		}
	})
	seconds := time.Since(start).Seconds()
	whole := slices.Concat(latencies...)
	if len(whole) == 0 {
		fail(fmt.Errorf("nothing succeeded, %d errors", errors.Load()))
	}
	slices.Sort(whole)
	at := func(share float64) float64 {
		return float64(whole[int(float64(len(whole)-1)*share)].Nanoseconds()) / 1000
	}
	return map[string]any{"ops_per_second": float64(len(whole)) / seconds, "errors": errors.Load(),
		"p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999)}
}

func main() {
	args := os.Args[1:]
	var result map[string]any
	switch {
	case len(args) == 4 && args[0] == "fill":
		result = fill(args[1], number(args[2]), number(args[3]))
	case len(args) == 2 && args[0] == "range":
		result = readAll(args[1])
	case len(args) == 3 && args[0] == "first":
		result = first(args[1], time.Duration(number(args[2]))*time.Second)
	case len(args) == 7 && args[0] == "bench":
		result = bench(args[1], args[2], number(args[3]), number(args[4]), number(args[5]),
			time.Duration(number(args[6]))*time.Second)
	default:
		fail(fmt.Errorf("usage: kvload fill|range|first|bench ADDRESS ..."))
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fail(err)
	}
}
