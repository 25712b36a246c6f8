package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// A failed attempt is followed by the next one after this: a loop without it would only heat the
// machine while nobody listens.
const retryPause = 2 * time.Millisecond

// success is a request from its first attempt to its success.
type success struct{ began, ended time.Time }

// application puts until it is closed, and remembers every success.
type application struct {
	client *clientv3.Client
	mutex  sync.Mutex
	done   []success // in the order of their ends
	failed int       // attempts
	stop   context.CancelFunc
	group  sync.WaitGroup
}

// connect gives the official client; it dials a member that came back soon.
func connect(endpoints ...string) (*clientv3.Client, error) {
	redial := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, MaxDelay: 300 * time.Millisecond}
	return clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: time.Second, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(
			grpc.ConnectParams{Backoff: redial, MinConnectTimeout: time.Second})}})
}

func newApplication(endpoints []string) (*application, error) {
	client, err := connect(endpoints...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	a := &application{client: client, stop: cancel}
	for i := range workers {
		a.group.Go(func() { a.work(ctx, fmt.Sprint("worker/", i)) })
	}
	return a, nil
}

func (a *application) work(ctx context.Context, key string) {
	value := strings.Repeat("v", 256)
	for ctx.Err() == nil {
		began := time.Now()
		for ctx.Err() == nil {
			limited, cancel := context.WithTimeout(ctx, attempt)
			_, err := a.client.Put(limited, key, value)
			cancel()
			a.mutex.Lock()
			if err == nil {
				a.done = append(a.done, success{began, time.Now()})
			} else {
				a.failed++
			}
			a.mutex.Unlock()
			if err == nil {
				break
			}
			time.Sleep(retryPause)
		}
	}
}

func (a *application) close() {
	a.stop()
	a.group.Wait()
	a.client.Close()
}

// since gives the successes that ended after a moment, and the last one before it.
func (a *application) since(moment time.Time) []success {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	first := slices.IndexFunc(a.done, func(s success) bool { return s.ended.After(moment) })
	if first < 0 {
		first = len(a.done)
	}
	return slices.Clone(a.done[max(0, first-1):])
}

// gap is a time without a success.
type gap struct{ from, to time.Time }

func (g gap) length() time.Duration { return g.to.Sub(g.from) }

// longestGap is that between two successes, of which a part lies in a time.
func longestGap(done []success, from, to time.Time) gap {
	var longest gap
	for i := 1; i < len(done); i++ {
		g := gap{done[i-1].ended, done[i].ended}
		if g.to.After(from) && g.from.Before(to) && g.length() > longest.length() {
			longest = g
		}
	}
	return longest
}

// recovered waits until `watch` has passed since the event and all is well again.
func (a *application) recovered(event time.Time, watch time.Duration) error {
	const limit = time.Minute
	time.Sleep(time.Until(event.Add(watch)))
	for time.Since(event) < limit {
		time.Sleep(100 * time.Millisecond)
		done := a.since(event)
		if len(done) > 2*workers && time.Since(done[len(done)-1].ended) < 100*time.Millisecond {
			return nil
		}
	}
	return fmt.Errorf("no recovery within %v", limit)
}
