package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

const (
	loadMax   = 1200 * time.Millisecond
	startMax  = 150 * time.Millisecond
	sampleMax = 4 // old revisions compared after each restart
)

type run struct {
	t       *testing.T
	server  *server
	model   *model
	random  *rand.Rand
	latest  atomic.Int64
	serial  atomic.Int64
	started bool // there is a log
	stats   struct{ acked, unknown, killedInStart, flushes, released, entries int }
	flushed uint64
	levels  map[uint64]int
}

func number(variable string, fallback uint64) uint64 {
	value, err := strconv.ParseUint(os.Getenv(variable), 0, 64)
	if err != nil {
		return fallback
	}
	return value
}

// flags: small memory, so that memtables are flushed and tables compacted within a few rounds.
func (r *run) flags() []string {
	cores := "2"
	if r.random.IntN(4) == 0 {
		cores = "1"
	}
	compression := []string{"none", "lz4", "zstd"}[r.random.IntN(3)]
	return []string{"--cores", cores, "--memory-limit", "134217728", "--log-level", "warn",
		"--compression", compression}
}

// compare holds what the server has against the model: revision, hash, and whole states.
func (r *run) compare() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // busy machines
	defer cancel()
	kv := pb.NewKVClient(r.server.Conn)
	read := func(revision int64) (*pb.RangeResponse, error) {
		return kv.Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision})
	}
	now, err := read(0)
	if err != nil {
		return err
	}
	if now.Header.Revision != r.model.revision {
		return fmt.Errorf("the server is at revision %d, the log makes %d to index %d (its end: %q)",
			now.Header.Revision, r.model.revision, r.model.index, r.server.note)
	}
	if text := r.model.differ(now, r.model.revision); text != "" {
		return fmt.Errorf("at the current revision %d: %s", r.model.revision, text)
	}
	oldest := max(r.model.compacted, 1)
	for range sampleMax {
		revision := oldest + r.random.Int64N(r.model.revision-oldest+1)
		old, err := read(revision)
		if err != nil {
			return fmt.Errorf("at revision %d (compacted %d): %w", revision, r.model.compacted, err)
		}
		if text := r.model.differ(old, revision); text != "" {
			return fmt.Errorf("at revision %d of %d (compacted %d): %s", revision, r.model.revision,
				r.model.compacted, text)
		}
		if err := r.hash(ctx, revision); err != nil {
			return err
		}
	}
	if r.model.compacted > 1 {
		if _, err := read(r.model.compacted - 1); err == nil {
			return fmt.Errorf("revision %d can be read, compacted is %d", r.model.compacted-1, r.model.compacted)
		}
	}
	return r.hash(ctx, r.model.revision)
}

func (r *run) hash(ctx context.Context, revision int64) error {
	hash, err := pb.NewMaintenanceClient(r.server.Conn).HashKV(ctx, &pb.HashKVRequest{Revision: revision})
	if err != nil {
		return fmt.Errorf("hash at revision %d: %w", revision, err)
	}
	if want := r.model.hash(revision); hash.Hash != want || hash.CompactRevision != r.model.compacted {
		return fmt.Errorf("hash at revision %d: %08x, compacted %d; replay: %08x, compacted %d",
			revision, hash.Hash, hash.CompactRevision, want, r.model.compacted)
	}
	return nil
}

// account applies one entry of the log, and strikes it off what the writers know.
func (r *run) account(o *outcome, entry *logged) error {
	if entry.Index != r.model.index+1 {
		return fmt.Errorf("entry %d follows entry %d", entry.Index, r.model.index)
	}
	r.model.index++
	r.stats.entries++
	request, err := entry.decode()
	if err != nil {
		return err
	}
	var effective bool
	if request == nil {
		effective, err = r.model.apply(nil)
	} else {
		effective, err = r.model.apply(request)
	}
	if err != nil || !effective {
		return err
	}
	return o.strike(request, r.model.revision)
}

// strike: a logged write is the one acknowledged with its revision, or one without an answer.
func (o *outcome) strike(request proto.Message, revision int64) error {
	print := fingerprint(request)
	if acked, is := o.acked[revision]; is {
		if acked != print {
			return fmt.Errorf("revision %d was acknowledged to another request than the log holds", revision)
		}
		delete(o.acked, revision)
		return nil
	}
	if o.unknown[print] == 0 {
		return fmt.Errorf("revision %d is of a request that nobody sent, or of one sent once and logged twice: %v",
			revision, request.ProtoReflect().Descriptor().Name())
	}
	o.unknown[print]--
	return nil
}

// replay lets the model catch up with the log of the stopped node.
func (r *run) replay(o *outcome) error {
	each := func(entry *logged) error { return r.account(o, entry) }
	first, err := r.server.dump(r.server.Data(), r.model.index+1, each)
	if err != nil {
		return err
	}
	if first > r.model.index+1 { /* released during the round: the side directory still has it */
		r.stats.released++
		if err := r.server.keepSegments(); err != nil {
			return err
		}
		_, err := r.server.dump(r.server.side(), r.model.index+1, func(entry *logged) error {
			if entry.Index >= first {
				return nil
			}
			return r.account(o, entry)
		})
		if err != nil {
			return fmt.Errorf("of segments kept aside: %w", err)
		}
		if again, err := r.server.dump(r.server.Data(), r.model.index+1, each); err != nil || again != 0 {
			return fmt.Errorf("entries %d to %d are in no segment: %v", r.model.index+1, again, err)
		}
	}
	if len(o.acked) > 0 {
		lost := make([]int64, 0, len(o.acked))
		for revision := range o.acked {
			lost = append(lost, revision)
		}
		return fmt.Errorf("%d acknowledged writes are lost, among them revision %d; the log ends at revision %d",
			len(lost), lost[0], r.model.revision)
	}
	if acked := o.compacted.Load(); acked > 0 && r.model.compacted < acked {
		return fmt.Errorf("compaction at %d was acknowledged, the log has %d", acked, r.model.compacted)
	}
	return nil
}

func (r *run) note() error {
	flushed, levels, err := r.server.tables()
	if err != nil {
		return err
	}
	if flushed > r.flushed {
		r.stats.flushes++
	}
	r.flushed, r.levels = flushed, levels
	return nil
}

// round returns what is wrong, or nil.
func (r *run) round() error {
	if err := r.server.keepLog(); err != nil {
		return err
	}
	if err := r.server.Launch(r.flags()...); err != nil {
		return err
	}
	o := newOutcome()
	if r.started && r.random.IntN(8) == 0 { // recovery itself is killed
		r.stats.killedInStart++
		time.Sleep(time.Duration(r.random.Int64N(int64(startMax))))
		if err := r.server.Kill(); err != nil {
			return err
		}
		return r.replay(o)
	}
	if err := r.server.ready(); err != nil {
		return err
	}
	if !r.started { // before its first start there was no log to keep
		if err := r.server.keepLog(); err != nil {
			return err
		}
	}
	r.started = true
	if err := r.compare(); err != nil {
		return err
	}
	l := &load{target: r.server, outcome: o, latest: &r.latest, serial: &r.serial, errs: make(chan error, 64)}
	r.latest.Store(r.model.revision)
	var killed error
	err := l.run(r.random, func() {
		time.Sleep(time.Duration(r.random.Int64N(int64(loadMax))))
		killed = r.server.Kill()
	})
	if killed != nil {
		return killed
	}
	if err != nil {
		return err
	}
	r.stats.acked += len(o.acked)
	for _, count := range o.unknown {
		r.stats.unknown += count
	}
	if err := r.replay(o); err != nil {
		return fmt.Errorf("%w\nfailures that writers saw: %v", err, o.failures)
	}
	return r.note()
}

func TestChaos(t *testing.T) {
	rounds := number("ROUNDS", 20)
	seed := number("SEED", uint64(time.Now().UnixNano()))
	t.Logf("SEED=%d ROUNDS=%d", seed, rounds)
	server, err := newServer()
	if err != nil {
		t.Fatal(err)
	}
	r := &run{t: t, server: server, model: newModel(), random: rand.New(rand.NewPCG(seed, 1))}
	for i := range rounds {
		if err := r.round(); err != nil {
			t.Fatalf("round %d: %v\nfiles are left in %s", i+1, err, server.Dir)
		}
	}
	if err := server.Launch(r.flags()...); err != nil { // what the last kill left
		t.Fatal(err)
	}
	if err = server.ready(); err == nil {
		err = r.compare()
	}
	if killed := server.Kill(); err != nil || killed != nil {
		t.Fatalf("after the last round: %v %v\nfiles are left in %s", err, killed, server.Dir)
	}
	t.Logf("%d rounds: %d writes acknowledged, %d without an answer, %d log entries, revision %d, compacted %d; "+
		"%d kills during recovery, rounds with a flush %d, with released segments %d, tables by level %v",
		rounds, r.stats.acked, r.stats.unknown, r.stats.entries, r.model.revision, r.model.compacted,
		r.stats.killedInStart, r.stats.flushes, r.stats.released, r.levels)
	if rounds >= 20 && (r.stats.flushes == 0 || r.levels[0]+r.levels[1] == 0) {
		t.Errorf("no flush in %d rounds: the load is too small for this test", rounds)
	}
	os.RemoveAll(server.Dir)
}
