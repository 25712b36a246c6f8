package chaos

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// What clients of a cluster did and saw, and whether one copy of the data could have answered so.
//
// Every key is checked by itself for linearizability (that property is local). On top of that, what
// revisions promise holds across keys: a write gets a revision of its own, no answer is of an
// earlier revision than an answer that was already there when it was asked for, and a value is
// always seen with the revision that its write was told.

type opKind int

const (
	opGet opKind = iota
	opPut
	opDelete
	opSwap // put if the key still is as it was read
)

var opNames = [...]string{"get", "put", "delete", "swap"}

// call is a request. Values are unique, and "" stands for a missing key.
type call struct {
	kind   opKind
	key    string
	value  string // that is written
	expect string // by a swap
	client string
}

// answer is what came back. Not known: it may have happened, then or at any later time.
type answer struct {
	known    bool
	seen     bool   // `before` is told
	before   string // the value that the request found
	modified int64  // its revision
	swapped  bool
	revision int64 // of the header
	err      error
}

type event struct {
	call     call
	answer   answer
	from, to time.Duration
}

type history struct {
	began  time.Time
	mutex  sync.Mutex
	events []event
}

func newHistory() *history { return &history{began: time.Now()} }

func (h *history) now() time.Duration { return time.Since(h.began) }

func (h *history) add(e event) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.events = append(h.events, e)
}

// counts gives the answered and the unanswered writes.
func (h *history) counts() (known, unknown int) {
	for _, e := range h.events {
		switch {
		case e.answer.known:
			known++
		case e.call.kind != opGet:
			unknown++
		}
	}
	return known, unknown
}

var oneKey = porcupine.Model{
	Init: func() any { return "" },
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		keys := map[string][]porcupine.Operation{}
		for _, o := range all {
			key := o.Input.(call).key
			keys[key] = append(keys[key], o)
		}
		var parts [][]porcupine.Operation
		for _, part := range keys {
			parts = append(parts, part)
		}
		return parts
	},
	Step: func(state, input, output any) (bool, any) {
		c, a := input.(call), output.(answer)
		if a.seen && a.before != state.(string) {
			return false, state
		}
		switch c.kind {
		case opPut:
			return true, c.value
		case opDelete:
			return true, ""
		case opSwap:
			matches := c.expect == state.(string)
			if a.known && a.swapped != matches {
				return false, state
			}
			if matches {
				return true, c.value
			}
		}
		return true, state
	},
	DescribeOperation: func(input, output any) string { return describe(input.(call), output.(answer)) },
	DescribeState:     func(state any) string { return state.(string) },
}

func describe(c call, a answer) string {
	text := opNames[c.kind] + " " + c.key
	if c.kind == opSwap {
		text += " from " + c.expect
	}
	if c.value != "" {
		text += " to " + c.value
	}
	switch {
	case !a.known:
		return text + fmt.Sprintf(": unknown (%v)", a.err)
	case c.kind == opSwap && a.swapped:
		text += ": swapped"
	case a.seen:
		text += fmt.Sprintf(": was %q of %d", a.before, a.modified)
	}
	return text + fmt.Sprintf(", revision %d", a.revision)
}

// observed are the values that some answer told.
func (h *history) observed() map[string]bool {
	seen := map[string]bool{}
	for _, e := range h.events {
		if e.answer.seen {
			seen[e.answer.before] = true
		}
		if e.call.kind == opSwap && e.answer.known && e.answer.swapped {
			seen[e.call.expect] = true
		}
	}
	return seen
}

// operations are what linearizability is about. A write without an answer stays open for ever; when
// its value was never told by anybody it may as well come last, and is left out: that keeps the
// search short and cannot hide anything, as every answer that depends on a value tells it.
func (h *history) operations() []porcupine.Operation {
	seen := h.observed()
	var all []porcupine.Operation
	for i, e := range h.events {
		to := int64(e.to)
		if !e.answer.known {
			if e.call.kind == opGet || e.call.value != "" && !seen[e.call.value] {
				continue
			}
			to = math.MaxInt64
		}
		all = append(all, porcupine.Operation{ClientId: i, Input: e.call, Output: e.answer,
			Call: int64(e.from), Return: to})
	}
	return all
}

// wrote tells whether the event surely made a revision.
func (e *event) wrote() bool {
	switch {
	case !e.answer.known:
		return false
	case e.call.kind == opPut:
		return true
	case e.call.kind == opDelete:
		return e.answer.before != ""
	}
	return e.call.kind == opSwap && e.answer.swapped
}

func (h *history) checkRevisions() error {
	writer := map[int64]*event{}
	revision := map[string]int64{} // of a value
	for i := range h.events {
		e := &h.events[i]
		if !e.wrote() {
			continue
		}
		if other := writer[e.answer.revision]; other != nil {
			return fmt.Errorf("revision %d was given to two writes:\n%s\n%s", e.answer.revision,
				describe(e.call, e.answer), describe(other.call, other.answer))
		}
		writer[e.answer.revision] = e
		if e.call.value != "" {
			revision[e.call.value] = e.answer.revision
		}
	}
	for i := range h.events {
		e := &h.events[i]
		if !e.answer.seen || e.answer.before == "" {
			continue
		}
		if known, is := revision[e.answer.before]; is && known != e.answer.modified {
			return fmt.Errorf("the write of %q was told revision %d: %s", e.answer.before, known,
				describe(e.call, e.answer))
		}
		revision[e.answer.before] = e.answer.modified
	}
	return h.checkOrder()
}

// checkOrder: time of the calls against revisions of the answers.
func (h *history) checkOrder() error {
	var byCall, byReturn []*event
	for i := range h.events {
		if h.events[i].answer.known {
			byCall = append(byCall, &h.events[i])
		}
	}
	byReturn = slices.Clone(byCall)
	slices.SortFunc(byCall, func(a, b *event) int { return int(a.from - b.from) })
	slices.SortFunc(byReturn, func(a, b *event) int { return int(a.to - b.to) })
	var last *event // of the highest revision among what had returned
	for _, e := range byCall {
		for len(byReturn) > 0 && byReturn[0].to < e.from {
			if last == nil || byReturn[0].answer.revision > last.answer.revision {
				last = byReturn[0]
			}
			byReturn = byReturn[1:]
		}
		if last == nil {
			continue
		}
		if before, now := last.answer.revision, e.answer.revision; now < before || now == before && e.wrote() {
			return fmt.Errorf("revisions went back:\n%v to %v by %s: %s\n%v to %v by %s: %s",
				last.from, last.to, last.call.client, describe(last.call, last.answer),
				e.from, e.to, e.call.client, describe(e.call, e.answer))
		}
	}
	return nil
}

const checkLimit = 5 * time.Minute

// check returns what is wrong. The history, and a drawing of what fits no order, are left in `dir`.
func (h *history) check(dir string) error {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	err := h.checkRevisions()
	if err == nil {
		result, info := porcupine.CheckOperationsVerbose(oneKey, h.operations(), checkLimit)
		switch result {
		case porcupine.Ok:
			return nil
		case porcupine.Unknown:
			err = fmt.Errorf("the history could not be checked within %v", checkLimit)
		default:
			err = fmt.Errorf("the history is not linearizable, see history.html")
			if problem := porcupine.VisualizePath(oneKey, info, filepath.Join(dir, "history.html")); problem != nil {
				err = fmt.Errorf("%w (%v)", err, problem)
			}
		}
	}
	var text strings.Builder
	for _, e := range h.events {
		fmt.Fprintf(&text, "%12v %12v %-10s %s\n", e.from, e.to, e.call.client, describe(e.call, e.answer))
	}
	if problem := os.WriteFile(filepath.Join(dir, "history.txt"), []byte(text.String()), 0o644); problem != nil {
		err = fmt.Errorf("%w (%v)", err, problem)
	}
	return err
}
