package compat

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

// each runs a check with the official client on both servers, one after the other.
func each(t *testing.T, check func(*testing.T, *clientv3.Client, context.Context)) {
	p := newPair(t)
	for _, s := range p.both() {
		t.Run(s.name, func(t *testing.T) {
			client, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Client}, DialTimeout: 5 * time.Second,
				RejectOldCluster: true})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			check(t, client, ctx)
		})
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func TestClientErrors(t *testing.T) {
	each(t, func(t *testing.T, c *clientv3.Client, ctx context.Context) {
		for i := range 5 {
			must[*clientv3.PutResponse](t)(c.Put(ctx, "a", strconv.Itoa(i)))
		}
		must[*clientv3.CompactResponse](t)(c.Compact(ctx, 4))
		first := func(_ any, err error) error { return err }
		for _, e := range []struct {
			why  string
			got  error
			want error
		}{
			{"compacted", first(c.Get(ctx, "a", clientv3.WithRev(2))), rpctypes.ErrCompacted},
			{"future", first(c.Get(ctx, "a", clientv3.WithRev(100))), rpctypes.ErrFutureRev},
			{"compacted twice", first(c.Compact(ctx, 4)), rpctypes.ErrCompacted},
			{"empty key", first(c.Put(ctx, "", "x")), rpctypes.ErrEmptyKey},
			{"key not found", first(c.Put(ctx, "no", "", clientv3.WithIgnoreValue())), rpctypes.ErrKeyNotFound},
			{"lease not found", first(c.Put(ctx, "a", "", clientv3.WithLease(9))), rpctypes.ErrLeaseNotFound},
			{"duplicate key", first(c.Txn(ctx).Then(clientv3.OpPut("a", ""), clientv3.OpPut("a", "")).Commit()), rpctypes.ErrDuplicateKey},
		} {
			if !errors.Is(e.got, e.want) {
				t.Errorf("%s: %v, not %v", e.why, e.got, e.want)
			}
		}
	})
}

// Many clients add to counters by compare-and-swap; each addition must count once.
func TestClientCounters(t *testing.T) {
	const workers, additions = 8, 40
	each(t, func(t *testing.T, c *clientv3.Client, ctx context.Context) {
		var wait sync.WaitGroup
		for range workers {
			wait.Add(1)
			go func() {
				defer wait.Done()
				for range additions {
					_, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
						n, _ := strconv.Atoi(s.Get("counter"))
						s.Put("counter", strconv.Itoa(n+1))
						return nil
					}, concurrency.WithAbortContext(ctx))
					if err != nil {
						t.Error(err)
						return
					}
				}
			}()
		}
		wait.Wait()
		r := must[*clientv3.GetResponse](t)(c.Get(ctx, "counter"))
		if len(r.Kvs) != 1 || string(r.Kvs[0].Value) != strconv.Itoa(workers*additions) ||
			r.Kvs[0].Version != workers*additions || r.Header.Revision != workers*additions+1 {
			t.Errorf("after %d additions: %v", workers*additions, r)
		}
	})
}

// What is acknowledged is visible to every later read, on any connection and at any time.
func TestClientReadsItsWrites(t *testing.T) {
	each(t, func(t *testing.T, c *clientv3.Client, ctx context.Context) {
		var wait sync.WaitGroup
		for worker := range 8 {
			wait.Add(1)
			go func() {
				defer wait.Done()
				other, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints()})
				if err != nil {
					t.Error(err)
					return
				}
				defer other.Close()
				kv := ordering.NewKV(other.KV, func(clientv3.Op, clientv3.OpResponse, int64) error {
					return errors.New("a revision went back")
				})
				key := fmt.Sprintf("key/%d", worker)
				for i := range 50 {
					put, err := c.Put(ctx, key, strconv.Itoa(i))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := kv.Get(ctx, key)
					if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != strconv.Itoa(i) ||
						got.Header.Revision < put.Header.Revision || got.Kvs[0].ModRevision != put.Header.Revision {
						t.Errorf("after put %d at revision %d: %v %v", i, put.Header.Revision, got, err)
						return
					}
				}
			}()
		}
		wait.Wait()
	})
}

func TestClientHelpers(t *testing.T) {
	each(t, func(t *testing.T, c *clientv3.Client, ctx context.Context) {
		inside := namespace.NewKV(c.KV, "space/")
		for i := range 2500 {
			must[*clientv3.PutResponse](t)(inside.Put(ctx, fmt.Sprintf("%04d", i), "v"))
		}
		if r := must[*clientv3.GetResponse](t)(inside.Get(ctx, "", clientv3.WithPrefix(), clientv3.WithCountOnly())); r.Count != 2500 {
			t.Errorf("namespace: %d keys", r.Count)
		}
		if r := must[*clientv3.GetResponse](t)(inside.Get(ctx, "2499")); len(r.Kvs) != 1 || string(r.Kvs[0].Key) != "2499" {
			t.Errorf("namespace: %v", r)
		}
		keys := 0
		pages, failures := mirror.NewSyncer(c, "space/", 0).SyncBase(ctx) // pages of 1000 at one revision
		for page := range pages {
			keys += len(page.Kvs)
		}
		if err := <-failures; err != nil || keys != 2500 {
			t.Errorf("mirror: %d keys, %v", keys, err)
		}
		r := must[*clientv3.GetResponse](t)(c.Get(ctx, "space/", clientv3.WithLastRev()...))
		if len(r.Kvs) != 1 || string(r.Kvs[0].Key) != "space/2499" {
			t.Errorf("the newest key: %v", r)
		}
		d := must[*clientv3.DeleteResponse](t)(inside.Delete(ctx, "0", clientv3.WithPrefix(), clientv3.WithPrevKV()))
		if d.Deleted != 1000 || len(d.PrevKvs) != 1000 {
			t.Errorf("deleted %d, previous %d", d.Deleted, len(d.PrevKvs))
		}
	})
}
