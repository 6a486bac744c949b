package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
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

// A pod tells what it has of a part, hears what the other one has, and refuses what no
// pod asks. One of a version that cannot tell is an error, and no difference.
func TestComparePart(t *testing.T) {
	c := newCluster(t, 3)
	asked := make(chan replication.Part, 10)
	c.adjust = func(o *replication.Options) {
		if o.Name == "kv-2" {
			return // Of an earlier version.
		}
		o.ComparePart = func(_ context.Context, pod string, theirs replication.Part) (replication.Part, error) {
			if theirs.Revision == 99 {
				return theirs, errors.New("it was compacted")
			}
			if pod != "kv-0" {
				t.Errorf("asked by %s", pod)
			}
			asked <- theirs
			theirs.Hash[0] = 7
			return theirs, nil
		}
	}
	c.boot()
	from := c.pods["kv-0"].node
	own := replication.Part{History: true, From: []byte("a"), To: []byte("b"), Revision: 5, Versions: 3, Bytes: 9, Hash: [32]byte{1, 2}}
	theirs, err := from.ComparePart(t.Context(), "kv-1", own)
	if err != nil || theirs.Hash != [32]byte{7, 2} {
		t.Fatalf("%+v, %v", theirs, err)
	}
	if got := <-asked; fmt.Sprint(got) != fmt.Sprint(own) {
		t.Errorf("%+v arrives as %+v", own, got)
	}
	if _, err := from.ComparePart(t.Context(), "kv-2", own); status.Code(err) != codes.Unimplemented {
		t.Errorf("an earlier version: %v", err)
	}
	compacted := own
	compacted.Revision = 99
	if _, err := from.ComparePart(t.Context(), "kv-1", compacted); !errors.Is(err, errPartUnknown) {
		t.Errorf("what is compacted: %v", err)
	}
	conn, err := from.calls.Conn("kv-1")
	if err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*peerv1.ComparePartRequest){
		"a short hash":    func(r *peerv1.ComparePartRequest) { r.Hash = r.Hash[1:] },
		"a long hash":     func(r *peerv1.ComparePartRequest) { r.Hash = make([]byte, 1<<20) },
		"a long key":      func(r *peerv1.ComparePartRequest) { r.To = make([]byte, maxPartKey+1) },
		"no revision":     func(r *peerv1.ComparePartRequest) { r.Revision = 0 },
		"too much":        func(r *peerv1.ComparePartRequest) { r.SizeBytes = 1 << 62 },
		"too many":        func(r *peerv1.ComparePartRequest) { r.Versions = 1 << 62 },
		"less than none":  func(r *peerv1.ComparePartRequest) { r.Versions = -1 },
		"fewer than none": func(r *peerv1.ComparePartRequest) { r.SizeBytes = -1 },
	} {
		req := &peerv1.ComparePartRequest{Pod: "kv-0", Revision: 5, Hash: make([]byte, sha256.Size)}
		change(req)
		if _, err := peerv1.NewPeerServiceClient(conn).ComparePart(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := &peerv1.ComparePartRequest{Pod: "kv-2", Revision: 5, Hash: make([]byte, sha256.Size)}
	if _, err := peerv1.NewPeerServiceClient(conn).ComparePart(t.Context(), other); !denied(err) {
		t.Errorf("in another's name: %v", err)
	}
}
