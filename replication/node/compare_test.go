package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/batondb/baton/replication"
)

// heard are the differences that pods were told of: whom, and with whom.
type heard struct {
	mu    sync.Mutex
	pairs map[string]string
	serve bool
}

func (h *heard) adjust(o *replication.Options) {
	name := o.Name
	o.Differs = func(pod, _ string) bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.pairs[name] = pod
		return h.serve
	}
}

func (h *heard) by(pod string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pairs[pod]
}

func newHeard(t *testing.T) (*cluster, *heard) {
	c, h := newCluster(t, 3), &heard{pairs: map[string]string{}}
	c.adjust = h.adjust
	return c.boot(), h
}

// A follower has a value that nobody wrote. None of its reads shows it: what was
// acknowledged before a read is compared before the read is answered. The others
// go on, and the one that is wrong hears of it from whoever compares.
func TestAFollowerThatDiffersServesNoRead(t *testing.T) {
	c, h := newHeard(t)
	m, all := c.master(), c.followers()
	wrong, right := all[0], all[1]
	wrong.machine.Phantom("k", "phantom")
	m.mustPut("other", "v")
	read := func(p *pod) error {
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		return errors.Join(p.node.LinearizableRead(ctx), p.node.BoundedRead(ctx, time.Hour))
	}
	if err := read(wrong); !errors.Is(err, replication.ErrDiffers) {
		t.Fatalf("a read of %s: %v", wrong.name, err)
	}
	if err := wrong.node.BoundedRead(t.Context(), time.Hour); !errors.Is(err, replication.ErrDiffers) {
		t.Errorf("a bounded read of %s: %v", wrong.name, err)
	}
	if got := h.by(wrong.name); got != m.name {
		t.Errorf("%s was told that it differs from %q, not %s", wrong.name, got, m.name)
	}
	for _, p := range []*pod{m, right} {
		if err := read(p); err != nil {
			t.Errorf("a read of %s: %v", p.name, err)
		}
	}
	if h.by(right.name) != "" {
		t.Errorf("%s was told that it differs", right.name)
	}
	own := right.node.Mark()
	theirs, err := right.node.CompareWith(t.Context(), wrong.name, own)
	if err != nil || theirs.Index != own.Index || theirs.Hash == own.Hash {
		t.Errorf("%v and %v, %v", own, theirs, err)
	}
	if got := h.by(wrong.name); got != right.name {
		t.Errorf("%s was told that it differs from %q, not %s", wrong.name, got, right.name)
	}
	h.mu.Lock()
	h.serve = true // A majority has said that it is the master that is wrong.
	h.mu.Unlock()
	if err := read(wrong); err != nil {
		t.Errorf("a read of %s that is cleared: %v", wrong.name, err)
	}
}

// The master differs, and nobody reads: the followers find out all the same.
func TestAMasterThatDiffersIsFound(t *testing.T) {
	c, h := newHeard(t)
	m := c.master()
	m.machine.Phantom("k", "phantom")
	m.mustPut("other", "v")
	c.eventually("every follower knows", func() error {
		for _, p := range c.followers() {
			if got := h.by(p.name); got != m.name {
				return fmt.Errorf("%s differs from %q", p.name, got)
			}
		}
		return nil
	})
}

// What a pod had is compared across restarts and clones, and agrees.
func TestMarksAgree(t *testing.T) {
	c, h := newHeard(t)
	m := c.master()
	for i := range 20 {
		m.mustPut("k", fmt.Sprint(i))
	}
	restarted, wiped := c.followers()[0], c.followers()[1]
	restarted.kill()
	restarted.start()
	restarted.awaitStart()
	c.awaitReady()
	wiped.kill()
	wiped.wipe()
	wiped.start()
	wiped.awaitStart()
	c.awaitReady()
	c.master().mustPut("k", "last")
	own := c.master().node.Mark()
	for _, p := range c.followers() {
		if theirs, err := c.master().node.CompareWith(t.Context(), p.name, own); err != nil || theirs != own {
			t.Errorf("%s: %+v, not %+v, %v", p.name, theirs, own, err)
		}
		p.mustRead("k", "last")
	}
	if len(h.pairs) > 0 {
		t.Errorf("told: %v", h.pairs)
	}
}
