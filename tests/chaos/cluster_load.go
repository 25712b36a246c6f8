package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"raft/tests/harness"
)

const (
	clusterKeys  = 8
	workersEach  = 2 // of a client that knows one member
	workersAll   = 4 // of the client that knows all
	callLimit    = 2 * time.Second
	callLimitMin = 300 * time.Millisecond // some ask a paused member again before it goes on
	pauseMax     = 4 * time.Millisecond   // between the calls of a worker
	settledLimit = 90 * time.Second
)

// open gives the official client, as a user would make it; it dials again soon.
func open(endpoints ...string) (*clientv3.Client, error) { return openSynced(0, endpoints...) }

// openSynced asks for the members again and again, and so follows a cluster that changes.
func openSynced(every time.Duration, endpoints ...string) (*clientv3.Client, error) {
	redial := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: 300 * time.Millisecond}
	return clientv3.New(clientv3.Config{Endpoints: endpoints, AutoSyncInterval: every, DialTimeout: time.Second, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(
			grpc.ConnectParams{Backoff: redial, MinConnectTimeout: time.Second})}})
}

// clusterLoad lets clients write and read a few keys through every member, and writes down what
// they see.
type clusterLoad struct {
	history *history
	serial  *atomic.Int64 // makes values unique
	prefix  string        // of this round's keys
	names   []string
	clients []*clientv3.Client // one a member, then the one that knows all
	patient time.Duration      // no worker of the client that knows all waits longer for a success; 0: for ever
	mutex   sync.Mutex
	problem error // of a client: an error that no retry helps, or patience at its end
}

// complain keeps the first.
func (l *clusterLoad) complain(err error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.problem == nil {
		l.problem = err
	}
}

// temporary tells whether a client would try again.
func temporary(err error) bool {
	code := status.Code(err)
	if known := (rpctypes.EtcdError{}); errors.As(err, &known) {
		code = known.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Canceled:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded)
}

func newClusterLoad(cluster *harness.Cluster, serial *atomic.Int64, prefix string) (*clusterLoad, error) {
	l := &clusterLoad{history: newHistory(), serial: serial, prefix: prefix}
	for _, m := range cluster.Members {
		client, err := open(m.Client)
		if err != nil {
			return nil, err
		}
		l.clients, l.names = append(l.clients, client), append(l.names, m.Name)
	}
	client, err := open(cluster.Endpoints()...)
	if err != nil {
		return nil, err
	}
	l.clients, l.names = append(l.clients, client), append(l.names, "all")
	return l, nil
}

func (l *clusterLoad) close() {
	for _, client := range l.clients {
		client.Close()
	}
}

func (l *clusterLoad) key(i int) string { return fmt.Sprintf("%s/%d", l.prefix, i) }

// see is what a range of one key found, put into the answer.
func (a *answer) see(r *clientv3.GetResponse) {
	a.seen = true
	if len(r.Kvs) > 0 {
		a.before, a.modified = string(r.Kvs[0].Value), r.Kvs[0].ModRevision
	}
}

func perform(ctx context.Context, client *clientv3.Client, c call, modified int64) answer {
	var a answer
	switch c.kind {
	case opGet:
		r, err := client.Get(ctx, c.key)
		if a.err = err; err == nil {
			a.see(r)
			a.revision = r.Header.Revision
		}
	case opPut:
		r, err := client.Put(ctx, c.key, c.value)
		if a.err = err; err == nil {
			a.revision = r.Header.Revision
		}
	case opDelete:
		r, err := client.Delete(ctx, c.key, clientv3.WithPrevKV())
		if a.err = err; err == nil {
			a.seen, a.revision = true, r.Header.Revision
			if len(r.PrevKvs) > 0 {
				a.before, a.modified = string(r.PrevKvs[0].Value), r.PrevKvs[0].ModRevision
			}
		}
	case opSwap:
		r, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(c.key), "=", modified)).
			Then(clientv3.OpPut(c.key, c.value)).Else(clientv3.OpGet(c.key)).Commit()
		if a.err = err; err == nil {
			a.swapped, a.revision = r.Succeeded, r.Header.Revision
			if !r.Succeeded {
				a.see((*clientv3.GetResponse)(r.Responses[0].GetResponseRange()))
			}
		}
	}
	a.known = a.err == nil
	return a
}

func (l *clusterLoad) do(client int, c call, modified int64, limit time.Duration) answer {
	c.client = l.names[client]
	limited, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	from := l.history.now()
	a := perform(limited, l.clients[client], c, modified)
	l.history.add(event{call: c, answer: a, from: from, to: l.history.now()})
	if !a.known && !temporary(a.err) {
		l.complain(fmt.Errorf("%s through %s: %w", describe(c, a), c.client, a.err))
	}
	return a
}

// worker remembers what it saw of each key, for its swaps.
func (l *clusterLoad) worker(ctx context.Context, client int, random *rand.Rand) {
	type seen struct {
		value    string
		modified int64
	}
	last := map[string]seen{}
	served := time.Now()
	for ctx.Err() == nil {
		c := call{key: l.key(random.IntN(clusterKeys))}
		switch n := random.IntN(100); {
		case n < 45:
			c.kind = opGet
		case n < 68:
			c.kind = opPut
		case n < 92:
			c.kind, c.expect = opSwap, last[c.key].value
		default:
			c.kind = opDelete
		}
		if c.kind == opPut || c.kind == opSwap {
			c.value = fmt.Sprint(l.serial.Add(1))
		}
		limit := callLimitMin + time.Duration(random.Int64N(int64(callLimit-callLimitMin)))
		a := l.do(client, c, last[c.key].modified, limit)
		if a.known {
			served = time.Now()
		} else if wait := time.Since(served); l.patient > 0 && wait > l.patient && client == len(l.clients)-1 {
			l.complain(fmt.Errorf("no success within %v: %w", wait, a.err))
		}
		switch {
		case !a.known:
		case c.kind == opPut || a.swapped:
			last[c.key] = seen{c.value, a.revision}
		case c.kind == opDelete:
			last[c.key] = seen{}
		default:
			last[c.key] = seen{a.before, a.modified}
		}
		time.Sleep(time.Duration(random.Int64N(int64(pauseMax))))
	}
}

// run loads the cluster while `disturb` runs. Workers finish the calls they are in.
func (l *clusterLoad) run(random *rand.Rand, disturb func() error) error {
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for client := range l.clients {
		count := workersEach
		if client == len(l.clients)-1 {
			count = workersAll
		}
		for range count {
			own := rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
			group.Go(func() { l.worker(ctx, client, own) })
		}
	}
	err := disturb()
	cancel()
	group.Wait()
	return errors.Join(err, l.problem)
}

// settle reads every key through every member, until each has answered: the history's end.
func (l *clusterLoad) settle() error {
	deadline := time.Now().Add(settledLimit)
	for client := range l.clients {
		for i := range clusterKeys {
			for {
				a := l.do(client, call{kind: opGet, key: l.key(i)}, 0, callLimit)
				if a.known {
					break
				}
				if time.Now().After(deadline) {
					return fmt.Errorf("%s does not answer reads %v after the disturbance: %w", l.names[client], settledLimit, a.err)
				}
			}
		}
	}
	return nil
}
