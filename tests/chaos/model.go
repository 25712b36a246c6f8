package chaos

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// version is one row of a key: a put or a tombstone, at revision main.sub.
type version struct {
	main    int64
	sub     uint32
	deleted bool
	create  int64
	count   int64 // etcd's "version" of the key
	value   []byte
}

// model is etcd's data model as plainly as it can be written; versions are oldest first. Requests
// with leases or ignore_value are not part of the load and not understood.
type model struct {
	keys      map[string][]version
	revision  int64
	compacted int64 // -1: never
	index     uint64
}

func newModel() *model {
	return &model{keys: map[string][]version{}, revision: 1, compacted: -1}
}

// at is what a read at that revision sees of a key.
func (m *model) at(key string, revision int64) *version {
	list := m.keys[key]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].main <= revision {
			if list[i].deleted {
				return nil
			}
			return &list[i]
		}
	}
	return nil
}

func (m *model) live(key string) *version { return m.at(key, m.revision+1) }

// inside: an empty end is the key alone, "\x00" has no end.
func inside(key string, from, end []byte) bool {
	if len(end) == 0 {
		return key == string(from)
	}
	return key >= string(from) && (len(end) == 1 && end[0] == 0 || key < string(end))
}

func (m *model) sorted(from, end []byte) []string {
	var found []string
	for key := range m.keys {
		if inside(key, from, end) {
			found = append(found, key)
		}
	}
	sort.Strings(found)
	return found
}

// change collects what one request does; it becomes one revision if it does anything.
type change struct {
	m   *model
	sub uint32
}

func (c *change) write(key string, v version) {
	v.main, v.sub = c.m.revision+1, c.sub
	c.m.keys[key] = append(c.m.keys[key], v)
	c.sub++
}

func (c *change) put(r *pb.PutRequest) {
	v := version{create: c.m.revision + 1, count: 1, value: r.Value}
	if before := c.m.live(string(r.Key)); before != nil {
		v.create, v.count = before.create, before.count+1
	}
	c.write(string(r.Key), v)
}

func (c *change) remove(r *pb.DeleteRangeRequest) {
	for _, key := range c.m.sorted(r.Key, r.RangeEnd) {
		if c.m.live(key) != nil {
			c.write(key, version{deleted: true})
		}
	}
}

func (m *model) holds(c *pb.Compare) bool {
	v := m.live(string(c.Key))
	if v == nil {
		v = &version{}
		if c.Target == pb.Compare_VALUE {
			return false
		}
	}
	order := 0
	switch c.Target {
	case pb.Compare_VERSION:
		order = cmp(v.count, c.GetVersion())
	case pb.Compare_CREATE:
		order = cmp(v.create, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp(v.main, c.GetModRevision())
	case pb.Compare_VALUE:
		order = bytes.Compare(v.value, c.GetValue())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	default:
		return order != 0
	}
}

func cmp(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// decide answers all compares, nested ones included, on the state before the transaction.
func (m *model) decide(r *pb.TxnRequest, branches map[*pb.TxnRequest][]*pb.RequestOp) {
	branch := r.Success
	for _, c := range r.Compare {
		if !m.holds(c) {
			branch = r.Failure
			break
		}
	}
	branches[r] = branch
	for _, op := range branch {
		if nested := op.GetRequestTxn(); nested != nil {
			m.decide(nested, branches)
		}
	}
}

func (c *change) txn(r *pb.TxnRequest, branches map[*pb.TxnRequest][]*pb.RequestOp) {
	for _, op := range branches[r] {
		switch {
		case op.GetRequestPut() != nil:
			c.put(op.GetRequestPut())
		case op.GetRequestDeleteRange() != nil:
			c.remove(op.GetRequestDeleteRange())
		case op.GetRequestTxn() != nil:
			c.txn(op.GetRequestTxn(), branches)
		}
	}
}

// apply executes one logged request; true when it made a revision.
func (m *model) apply(request any) (bool, error) {
	c := change{m: m}
	switch r := request.(type) {
	case nil: // a new leader's first entry
	case *pb.PutRequest:
		c.put(r)
	case *pb.DeleteRangeRequest:
		c.remove(r)
	case *pb.TxnRequest:
		branches := map[*pb.TxnRequest][]*pb.RequestOp{}
		m.decide(r, branches)
		c.txn(r, branches)
	case *pb.CompactionRequest:
		if r.Revision > m.compacted && r.Revision <= m.revision {
			m.compact(r.Revision)
		}
	default:
		return false, fmt.Errorf("the model does not know %T", request)
	}
	if c.sub == 0 {
		return false, nil
	}
	m.revision++
	return true, nil
}

// compact forgets what no read and no hash sees any more.
func (m *model) compact(revision int64) {
	m.compacted = revision
	for key, list := range m.keys {
		newest := -1
		for i := range list {
			if list[i].main <= revision {
				newest = i
			}
		}
		if newest < 0 {
			continue
		}
		if list[newest].deleted && list[newest].main < revision {
			newest++
		}
		list = slices.Clone(list[newest:])
		if len(list) == 0 {
			delete(m.keys, key)
		} else {
			m.keys[key] = list
		}
	}
}

// hash is HashKV as storage/mvcc/history.c and docs/formats/mvcc-rows.md define it.
func (m *model) hash(revision int64) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := uint32(0)
	for _, key := range m.sorted([]byte{0}, []byte{0}) {
		list := m.keys[key]
		row := append([]byte{'k'}, key...)
		below := false
		for i := len(list) - 1; i >= 0; i-- {
			v := &list[i]
			if v.main > revision {
				continue
			}
			if v.main <= m.compacted {
				if below {
					continue
				}
				below = true
				if v.deleted && v.main != m.compacted {
					continue
				}
			}
			value := v.encode()
			header := binary.LittleEndian.AppendUint64(nil, uint64(v.main))
			header = binary.LittleEndian.AppendUint32(header, v.sub)
			kind := byte(0)
			if v.deleted {
				kind = 1
			}
			header = append(header, kind)
			header = binary.LittleEndian.AppendUint32(header, uint32(len(row)))
			header = binary.LittleEndian.AppendUint32(header, uint32(len(value)))
			sum = crc32.Update(sum, table, header)
			sum = crc32.Update(sum, table, row)
			sum = crc32.Update(sum, table, value)
		}
	}
	return sum
}

func (v *version) encode() []byte {
	if v.deleted {
		return nil
	}
	row := []byte{0}
	row = binary.AppendUvarint(row, uint64(v.main-v.create))
	row = binary.AppendUvarint(row, uint64(v.count))
	return append(row, v.value...)
}

// differ compares a range over all keys at a revision; "" when it is as the model has it.
func (m *model) differ(got *pb.RangeResponse, revision int64) string {
	i := 0
	for _, key := range m.sorted([]byte{0}, []byte{0}) {
		v := m.at(key, revision)
		if v == nil {
			continue
		}
		if i == len(got.Kvs) {
			return fmt.Sprintf("key %q of revision %d is missing", key, v.main)
		}
		kv := got.Kvs[i]
		i++
		if string(kv.Key) != key || kv.ModRevision != v.main || kv.CreateRevision != v.create ||
			kv.Version != v.count || !bytes.Equal(kv.Value, v.value) {
			return fmt.Sprintf("server has %q mod %d create %d version %d (%d bytes), model has %q "+
				"mod %d create %d version %d (%d bytes)", kv.Key, kv.ModRevision, kv.CreateRevision,
				kv.Version, len(kv.Value), key, v.main, v.create, v.count, len(v.value))
		}
	}
	if i != len(got.Kvs) {
		return fmt.Sprintf("key %q is there, not in the model", got.Kvs[i].Key)
	}
	return ""
}
