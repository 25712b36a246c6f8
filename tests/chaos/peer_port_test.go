package chaos

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"raft/tests/harness"
)

// Frames of docs/formats/peer-frame.md, as much as it takes to annoy a member.
const (
	peerMagic    = 0x52454550
	peerHeader   = 56
	kindHello    = 1
	kindWelcome  = 2
	kindQuestion = 4
	kindRaft     = 16
)

type peerFrame struct {
	version, kind             uint16
	cluster, from, to, starts uint64
	meta, payload             []byte
	metaBytes, payloadBytes   uint32 // what the header says, when not 0
}

func (f *peerFrame) seal() []byte {
	out := make([]byte, peerHeader, peerHeader+len(f.meta)+len(f.payload))
	binary.LittleEndian.PutUint32(out, peerMagic)
	binary.LittleEndian.PutUint16(out[4:], max(f.version, 1))
	binary.LittleEndian.PutUint16(out[6:], f.kind)
	binary.LittleEndian.PutUint32(out[12:], max(f.metaBytes, uint32(len(f.meta))))
	binary.LittleEndian.PutUint32(out[16:], max(f.payloadBytes, uint32(len(f.payload))))
	binary.LittleEndian.PutUint32(out[20:], crc32.Checksum(f.meta, castagnoli))
	for i, id := range []uint64{f.cluster, f.from, f.to, f.starts} {
		binary.LittleEndian.PutUint64(out[24+8*i:], id)
	}
	sum := crc32.Update(crc32.Checksum(out[:8], castagnoli), castagnoli, out[12:])
	binary.LittleEndian.PutUint32(out[8:], sum)
	return append(append(out, f.meta...), f.payload...)
}

func readPeerFrame(from io.Reader) (*peerFrame, error) {
	header := make([]byte, peerHeader)
	if _, err := io.ReadFull(from, header); err != nil {
		return nil, err
	}
	f := &peerFrame{version: binary.LittleEndian.Uint16(header[4:]), kind: binary.LittleEndian.Uint16(header[6:]),
		cluster: binary.LittleEndian.Uint64(header[24:]), from: binary.LittleEndian.Uint64(header[32:]),
		to: binary.LittleEndian.Uint64(header[40:]), starts: binary.LittleEndian.Uint64(header[48:])}
	f.meta = make([]byte, binary.LittleEndian.Uint32(header[12:]))
	f.payload = make([]byte, binary.LittleEndian.Uint32(header[16:]))
	_, err := io.ReadFull(from, f.meta)
	if err == nil {
		_, err = io.ReadFull(from, f.payload)
	}
	if err == nil && string(f.seal()[:peerHeader]) != string(header) {
		err = fmt.Errorf("a frame of kind %d of a member is not sealed as the document says", f.kind)
	}
	return f, err
}

// impostor takes the place of a member that never started, and keeps what others send it.
type impostor struct {
	mutex    sync.Mutex
	listener net.Listener
	heard    map[uint64][]*peerFrame // by sender, greetings included
	problem  error
}

func newImpostor(address string) (*impostor, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	p := &impostor{listener: listener, heard: map[uint64][]*peerFrame{}}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go p.listen(conn)
		}
	}()
	return p, nil
}

func (p *impostor) listen(conn net.Conn) {
	defer conn.Close()
	for from := bufio.NewReader(conn); ; {
		f, err := readPeerFrame(from)
		p.mutex.Lock()
		if err == nil {
			p.heard[f.from] = append(p.heard[f.from], f)
		} else if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && p.problem == nil {
			p.problem = err
		}
		p.mutex.Unlock()
		if err != nil {
			return
		}
		if f.kind == kindHello {
			welcome := peerFrame{kind: kindWelcome, cluster: f.cluster, from: f.to, to: f.from, starts: 1}
			_, _ = conn.Write(welcome.seal())
		}
	}
}

func (p *impostor) all() map[uint64][]*peerFrame {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return maps.Clone(p.heard)
}

// counters of the peer port, by name and labels.
func counters(m *harness.Member) (map[string]float64, error) {
	reply, err := http.Get("http://" + m.Client + "/metrics")
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(reply.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if strings.HasPrefix(name, "raft_peer_") {
			all[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return all, nil
}

var (
	malformed   = []string{`raft_peer_frames_refused_total{reason="malformed"}`}
	senseless   = []string{malformed[0], `raft_peer_messages_dropped_total{reason="malformed"}`} // whole frames
	misdirected = []string{`raft_peer_frames_refused_total{reason="misdirected"}`}
	stale       = []string{`raft_peer_frames_refused_total{reason="stale"}`}
	greetings   = []string{`raft_peer_greetings_refused_total`}
)

// send dials, writes all, and reads until the member closes the connection or says something.
func send(m *harness.Member, wait bool, parts ...[]byte) error {
	conn, err := net.Dial("tcp", m.Peer)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, part := range parts {
		if _, err := conn.Write(part); err != nil {
			return nil // it has closed already
		}
	}
	if !wait {
		return nil
	}
	_ = conn.SetReadDeadline(time.Now().Add(settledLimit))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s keeps a connection that it should close", m.Name)
	}
	return nil
}

// annoyance is bytes for the peer port, and the counters that have to tell of them.
type annoyance struct {
	why   string
	tell  []string
	times int
	parts func(w *wrong) [][]byte
}

// wrong is what annoyances are made of: the impostor's identity, and what it heard.
type wrong struct {
	random *rand.Rand
	hello  peerFrame // of the impostor to the member that is annoyed
	heard  []*peerFrame
	other  []*peerFrame // what a member of another cluster sent
	third  []*peerFrame // what the member's neighbour sent to the impostor
}

func (w *wrong) noise(bytes int) []byte {
	noise := make([]byte, bytes)
	for i := range noise {
		noise[i] = byte(w.random.Uint32())
	}
	return noise
}

// frame is one that was heard, no greeting, as if the impostor sent it to the member.
func (w *wrong) frame() *peerFrame {
	f := *w.heard[w.random.IntN(len(w.heard))]
	for f.kind == kindHello {
		f = *w.heard[w.random.IntN(len(w.heard))]
	}
	f.cluster, f.from, f.to, f.starts = w.hello.cluster, w.hello.from, w.hello.to, w.hello.starts
	return &f
}

func (w *wrong) with(change func(*peerFrame)) []byte {
	f := w.hello
	change(&f)
	return f.seal()
}

func sealed(frames []*peerFrame) (out [][]byte) {
	for _, f := range frames {
		out = append(out, f.seal())
	}
	return out
}

var annoyances = []annoyance{
	{"noise", malformed, 50, func(w *wrong) [][]byte { return [][]byte{w.noise(peerHeader + w.random.IntN(9000))} }},
	{"noise after the magic", malformed, 50, func(w *wrong) [][]byte { return [][]byte{[]byte("PEER\x01\x00"), w.noise(4000)} }},
	{"noise after a greeting", malformed, 50, func(w *wrong) [][]byte { return [][]byte{w.hello.seal(), w.noise(4000)} }},
	{"HTTP", malformed, 1, func(w *wrong) [][]byte {
		return [][]byte{[]byte("GET /version HTTP/1.1\r\nHost: member\r\nUser-Agent: a browser that is lost\r\n\r\n")}
	}},
	{"a flipped bit", malformed, 300, func(w *wrong) [][]byte {
		bytes := w.frame().seal()
		bytes[w.random.IntN(len(bytes))] ^= 1 << w.random.IntN(8)
		return [][]byte{w.hello.seal(), bytes}
	}},
	{"another version", malformed, 1, func(w *wrong) [][]byte { return [][]byte{w.with(func(f *peerFrame) { f.version = 9 })} }},
	{"meta of 4 GiB", malformed, 10, func(w *wrong) [][]byte {
		return [][]byte{w.with(func(f *peerFrame) { f.metaBytes = 1<<32 - 1 })}
	}},
	{"payload of 4 GiB", malformed, 10, func(w *wrong) [][]byte {
		return [][]byte{w.hello.seal(), w.with(func(f *peerFrame) { f.kind, f.payloadBytes = kindRaft, 1<<32-1 })}
	}},
	{"a greeting without a lane", malformed, 1, func(w *wrong) [][]byte { return [][]byte{w.with(func(f *peerFrame) { f.meta = nil })} }},
	{"a greeting of nobody", malformed, 1, func(w *wrong) [][]byte { return [][]byte{w.with(func(f *peerFrame) { f.from = 0 })} }},
	{"a lane that does not exist", malformed, 1, func(w *wrong) [][]byte {
		return [][]byte{w.with(func(f *peerFrame) { f.meta = append([]byte{200}, f.meta[1:]...) })}
	}},
	{"no greeting", malformed, 10, func(w *wrong) [][]byte { return [][]byte{w.frame().seal()} }},
	{"two greetings", malformed, 1, func(w *wrong) [][]byte { return [][]byte{w.hello.seal(), w.hello.seal()} }},
	{"a kind that is not known", senseless, 10, func(w *wrong) [][]byte {
		return [][]byte{w.hello.seal(), w.with(func(f *peerFrame) { f.kind = uint16(1000 + w.random.IntN(60000)) })}
	}},
	{"every kind with meta that is too short", senseless, 100, func(w *wrong) [][]byte {
		return [][]byte{w.hello.seal(), w.with(func(f *peerFrame) {
			f.kind, f.meta = uint16(kindRaft+w.random.IntN(6)), w.noise(w.random.IntN(8))
		})}
	}},
	{"a question of noise", malformed, 20, func(w *wrong) [][]byte {
		return [][]byte{w.with(func(f *peerFrame) { f.kind, f.meta = kindQuestion, append([]byte{0xff, 0xff}, w.noise(300)...) })}
	}},
	{"for another member", misdirected, 10, func(w *wrong) [][]byte { return sealed(w.third) }},
	{"of another cluster", misdirected, 10, func(w *wrong) [][]byte { return sealed(w.other) }},
	{"of another cluster, after a greeting", misdirected, 10, func(w *wrong) [][]byte {
		return [][]byte{w.hello.seal(), w.with(func(f *peerFrame) { f.kind, f.cluster = kindRaft, f.cluster+1 })}
	}},
	{"of another member, after a greeting", misdirected, 10, func(w *wrong) [][]byte {
		return [][]byte{w.hello.seal(), w.with(func(f *peerFrame) { f.kind, f.from = kindRaft, f.from+1 })}
	}},
	{"of an earlier start", stale, 10, func(w *wrong) [][]byte {
		return [][]byte{w.with(func(f *peerFrame) { f.starts-- })}
	}},
	{"of an earlier start, after a greeting", stale, 10, func(w *wrong) [][]byte {
		return [][]byte{w.hello.seal(), w.with(func(f *peerFrame) { f.kind, f.starts = kindRaft, f.starts-1 })}
	}},
	{"a greeting as the member itself", greetings, 1, func(w *wrong) [][]byte { return [][]byte{w.with(func(f *peerFrame) { f.from = f.to })} }},
}

// overheard runs a cluster whose last member is an impostor, for as long as it takes to hear every
// kind of frame that two members send.
func overheard(t *testing.T, r *clusterRun) (*impostor, map[uint64][]*peerFrame) {
	t.Helper()
	c := r.cluster
	absent := c.Members[len(c.Members)-1]
	c.Members = c.Members[:len(c.Members)-1]
	p, err := newImpostor(absent.Peer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.listener.Close() })
	if err := r.again(c.Members...); err != nil {
		t.Fatal(err)
	}
	client, err := open(c.Endpoints()...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for deadline := time.Now().Add(settledLimit); ; {
		if err := write(client, "k", strings.Repeat("v", 3000)); err != nil {
			t.Fatal(err)
		}
		heard := p.all()
		raft := 0
		for _, frames := range heard {
			for _, f := range frames {
				if f.kind >= kindRaft {
					raft++
				}
			}
		}
		if len(heard) == len(c.Members) && raft > 20 {
			return p, heard
		}
		if time.Now().After(deadline) {
			t.Fatalf("the members hardly speak: %d frames of Raft from %d of them", raft, len(heard))
		}
	}
}

// rose waits until a counter has come as far: a connection is closed a moment before it is counted.
func rose(m *harness.Member, counter string, to float64) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		now, err := counters(m)
		if err != nil {
			return err
		}
		if now[counter] >= to {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s of %s is %.0f, not %.0f", counter, m.Name, now[counter], to)
		}
	}
}

// Bytes of all kinds come in at the peer port: no member ends, no term changes, and counters tell.
func TestPeerPort(t *testing.T) {
	random := seeded(t)
	r := prepareCluster(t, random, 3, "--election-timeout", "3000") // a busy machine is no reason
	_, heard := overheard(t, r)
	foreign := prepareCluster(t, random, 3)
	_, other := overheard(t, foreign)
	client, err := open(r.cluster.Endpoints()...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	before := map[string]*clientv3.StatusResponse{}
	for _, m := range r.cluster.Members {
		err := until("a leader", func(context.Context) error {
			s, err := memberStatus(m)
			if before[m.Name] = s; err == nil && s.Leader == 0 {
				err = errors.New("there is none")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range r.cluster.Members {
		w := &wrong{random: random, other: slices.Concat(slices.Collect(maps.Values(other))...)}
		for sender, frames := range heard {
			if sender == before[m.Name].Header.MemberId {
				w.heard = frames
			} else {
				w.third = frames
			}
		}
		own := w.heard[0]
		w.hello = peerFrame{kind: kindHello, cluster: own.cluster, from: own.to, to: own.from, starts: 1000,
			meta: []byte("\x00\x00\x00\x001http://127.0.0.1:1")}
		for _, a := range annoyances {
			then, err := counters(m)
			if err != nil {
				t.Fatal(err)
			}
			for range a.times {
				if err := send(m, true, a.parts(w)...); err != nil {
					t.Errorf("%s: %v", a.why, err)
				}
			}
			if err := r.cluster.Ended(); err != nil {
				t.Fatalf("%s: %v", a.why, err)
			}
			for _, counter := range a.tell {
				if err := rose(m, counter, then[counter]+float64(a.times)); err != nil {
					t.Errorf("%s, %d times: %v", a.why, a.times, err)
				}
			}
			if err := write(client, a.why, fmt.Sprint(i)); err != nil {
				t.Fatalf("%s: %v", a.why, err)
			}
		}
	}
	for _, m := range r.cluster.Members {
		s, err := memberStatus(m)
		if err != nil || s.RaftTerm != before[m.Name].RaftTerm || s.Leader != before[m.Name].Leader {
			t.Errorf("%s: %v %v, before %v", m.Name, s, err, before[m.Name])
		}
	}
}

// Connections on which nothing, or half a frame, was sent do not stay for ever, nor does a crowd of
// them keep members from each other.
func TestPeerPortSilence(t *testing.T) {
	r := startCluster(t, seeded(t), 3)
	leader, _, err := r.cluster.Leader()
	if err != nil {
		t.Fatal(err)
	}
	hello := peerFrame{kind: kindHello, cluster: 1, from: 2, to: 3, meta: make([]byte, 20)}
	var conns []net.Conn
	for i := range 300 {
		conn, err := net.Dial("tcp", leader.Peer)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write(hello.seal()[:i%peerHeader])
		conns = append(conns, conn)
	}
	client, err := open(r.cluster.Endpoints()...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	follower := r.cluster.Members[slices.IndexFunc(r.cluster.Members, func(m *harness.Member) bool { return m != leader })]
	if err := errors.Join(follower.Kill(), r.again(follower)); err != nil { // it dials again
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), settledLimit)
	defer cancel()
	if err := write(client, "k", "v"); err != nil {
		t.Fatal(err)
	}
	for i, conn := range conns {
		deadline, _ := ctx.Deadline()
		_ = conn.SetReadDeadline(deadline)
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a connection that sent %d bytes stays open", i%peerHeader)
		}
	}
}
