package chaos

import (
	"errors"
	"testing"
	"time"
)

// The checker finds what it is there for.
func TestHistory(t *testing.T) {
	at := func(from, to int, c call, a answer) event {
		return event{call: c, answer: a, from: time.Duration(from), to: time.Duration(to)}
	}
	put := func(value string) call { return call{kind: opPut, key: "k", value: value} }
	swap := func(expect, value string) call { return call{kind: opSwap, key: "k", value: value, expect: expect} }
	get := call{kind: opGet, key: "k"}
	wrote := func(revision int64) answer { return answer{known: true, revision: revision} }
	saw := func(value string, modified, revision int64) answer {
		return answer{known: true, seen: true, before: value, modified: modified, revision: revision}
	}
	swapped := func(revision int64) answer { return answer{known: true, swapped: true, revision: revision} }
	lost := answer{err: errors.New("no answer")}
	for _, c := range []struct {
		why    string
		right  bool
		events []event
	}{
		{"a read of what was written", true, []event{at(1, 2, put("a"), wrote(2)), at(3, 4, get, saw("a", 2, 2))}},
		{"a stale read", false, []event{at(1, 2, put("a"), wrote(2)), at(3, 4, put("b"), wrote(3)), at(5, 6, get, saw("a", 2, 3))}},
		{"a read during a write", true, []event{at(1, 2, put("a"), wrote(2)), at(3, 6, put("b"), wrote(3)), at(4, 5, get, saw("a", 2, 2))}},
		{"a lost write", false, []event{at(1, 2, put("a"), wrote(2)), at(3, 4, get, answer{known: true, seen: true, revision: 2})}},
		{"a write without an answer happened", true, []event{at(1, 2, put("a"), lost), at(3, 4, get, saw("a", 2, 2))}},
		{"it happened late", true, []event{at(1, 2, put("a"), lost), at(3, 4, get, answer{known: true, seen: true, revision: 1}), at(5, 6, get, saw("a", 2, 2))}},
		{"it did not", true, []event{at(1, 2, put("a"), lost), at(3, 4, get, answer{known: true, seen: true, revision: 1})}},
		{"it was undone", false, []event{at(1, 2, put("a"), lost), at(3, 4, get, saw("a", 2, 2)), at(5, 6, get, answer{known: true, seen: true, revision: 2})}},
		{"two swaps of one value", false, []event{at(1, 2, put("a"), wrote(2)), at(3, 9, swap("a", "b"), swapped(3)), at(4, 8, swap("a", "c"), swapped(4))}},
		{"a swap of what is not there", false, []event{at(1, 2, put("a"), wrote(2)), at(3, 4, swap("b", "c"), swapped(3))}},
		{"one revision twice", false, []event{at(1, 4, put("a"), wrote(2)), at(2, 3, put("b"), wrote(2))}},
		{"a write at a revision that was there", false, []event{at(1, 2, put("a"), wrote(2)), at(3, 4, call{kind: opPut, key: "l", value: "b"}, wrote(2))}},
		{"another key at an earlier revision", false, []event{at(1, 2, put("a"), wrote(2)), at(3, 4, call{kind: opGet, key: "l"}, answer{known: true, seen: true, revision: 1})}},
		{"written again by itself", false, []event{at(1, 2, put("a"), wrote(2)), at(3, 4, get, saw("a", 3, 3))}},
	} {
		h := &history{events: c.events}
		if err := h.check(t.TempDir()); (err == nil) != c.right {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}
