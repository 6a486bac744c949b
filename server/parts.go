package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/replication"
)

// partDoubts are about a part of the keys of which another pod reads something else from
// its disk, although both have applied the same.
type partDoubts struct {
	// why nothing is read meanwhile; nil: there is no doubt, or this pod serves in spite
	// of it.
	why atomic.Pointer[string]
	// differs says whether this pod's data differs from some other pod's.
	differs atomic.Bool
	// raised has the part that is to be settled next. Another one meanwhile is dropped:
	// it is found again.
	raised chan replication.Part

	mu    sync.Mutex // guards turns
	turns map[string]chan time.Time
}

func newPartDoubts() partDoubts {
	return partDoubts{raised: make(chan replication.Part, 1), turns: map[string]chan time.Time{}}
}

// turn waits until this pod reads for another one again: for each at one time, and for a
// fifth of the time, as for its own rounds, however often that asks.
func (d *partDoubts) turn(ctx context.Context, pod string) (end func(), err error) {
	d.mu.Lock()
	turns, ok := d.turns[pod]
	if !ok {
		turns = make(chan time.Time, 1)
		turns <- time.Time{}
		d.turns[pod] = turns
	}
	d.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case next := <-turns:
		if !sleep.For(ctx, time.Until(next)) {
			turns <- next
			return nil, ctx.Err()
		}
	}
	began := time.Now()
	return func() { turns <- time.Now().Add(verifyIdle * time.Since(began)) }, nil
}

func (d *partDoubts) raise(part replication.Part) {
	select {
	case d.raised <- part:
	default:
	}
}

// ComparePart says what this pod has of another pod's part, and hears whether that has
// something else. It is for the log to call.
func (s *Server) ComparePart(ctx context.Context, pod string, theirs replication.Part) (replication.Part, error) {
	st := s.core.store.Load()
	if st == nil {
		return replication.Part{}, errNotReady("it has no database yet")
	}
	if err := st.WaitRevision(ctx, theirs.Revision); err != nil {
		return replication.Part{}, err
	}
	end, err := s.core.doubts.parts.turn(ctx, pod)
	if err != nil {
		return replication.Part{}, err
	}
	defer end()
	own, err := st.PartAgain(ctx, theirs)
	if err == nil && own.Hash != theirs.Hash {
		s.core.doubts.parts.raise(theirs)
	}
	return own, err
}

// settleParts decides, until ctx ends, who is wrong about the parts in which pods differ.
// As with what was applied, each pod acts only upon itself.
func (c *core) settleParts(ctx context.Context) {
	var part replication.Part
	doubts := &c.doubts.parts
	for {
		raised, again := doubts.raised, (<-chan time.Time)(nil)
		if doubts.why.Load() != nil {
			raised = nil // One after the other.
		}
		if doubts.why.Load() != nil || doubts.differs.Load() {
			again = time.After(compareAgain)
		}
		select {
		case <-ctx.Done():
			return
		case part = <-raised:
		case <-again:
		}
		if c.doubts.diverged.Load() != nil {
			return
		}
		c.settlePart(ctx, part)
		// Whoever asks about a part all the time must not keep this pod busy with it.
		if !sleep.For(ctx, compareAgain) {
			return
		}
	}
}

// settlePart asks all about a part. A majority has to contradict this pod twice, at two
// moments, before it gives up its data. While nobody can tell who is wrong, the master
// alone serves.
func (c *core) settlePart(ctx context.Context, part replication.Part) {
	t, part, err := c.judgePart(ctx, part)
	if err != nil {
		return
	}
	c.showPart(t, part)
	log, err := c.needLog()
	switch {
	case err != nil:
	case t.outvoted:
		c.withholdPart(t)
		if !sleep.For(ctx, compareAgain) {
			return
		}
		if t, _, err = c.tallyPart(ctx, part); err == nil && t.outvoted {
			c.giveUp(ctx, "its data at rest differs from a majority of the pods: "+describePart(part))
		}
	case t.backed, log.IsMaster(), len(t.differ) == 0 && t.agree > 0:
		c.doubts.parts.why.Store(nil)
	case len(t.differ) > 0:
		c.withholdPart(t)
	}
}

// narrower is how many parts one is divided into.
const narrower = 8

// judgePart counts who has what of a part. Where all differ, two pods may be wrong in
// different versions of it: then it goes on with parts of the part, down to one version,
// and returns the one that this pod is wrong in, or else that nobody can judge.
func (c *core) judgePart(ctx context.Context, part replication.Part) (tally, replication.Part, error) {
	whole, own, err := c.tallyPart(ctx, part)
	if err != nil || whole.backed || whole.outvoted || len(whole.differ) < 2 || own.Versions <= 1 {
		return whole, own, err
	}
	if log, err := c.needLog(); err != nil || !log.IsMaster() {
		c.withholdPart(whole) // A pod that does not answer makes this take long.
	}
	unclear, where := whole, own
	whole.backed = true
	bounds := replication.Part{History: own.History, From: own.From, To: own.To, Versions: max(1, own.Versions/narrower)}
	for more := true; more; {
		var piece replication.Part
		if piece, more, err = c.store.Load().Part(ctx, bounds); err != nil {
			return whole, own, err
		}
		t, narrow, err := c.judgePart(ctx, piece)
		if err != nil || t.outvoted {
			return t, narrow, err
		}
		if len(t.differ) > 0 && !t.backed {
			unclear, where, whole.backed = t, narrow, false
		}
		bounds.From = piece.To
	}
	if whole.backed {
		return whole, own, nil
	}
	return unclear, where, nil
}

func (c *core) withholdPart(t tally) {
	why := fmt.Sprintf("its data at rest differs from that of %s, and it is not known yet who is wrong", strings.Join(t.differ, ", "))
	c.doubts.parts.why.Store(&why)
}

// describePart names no key.
func describePart(p replication.Part) string {
	of := "keys"
	if p.History {
		of = "history"
	}
	return fmt.Sprintf("a part of the %s at revision %d, %d versions of %d bytes", of, p.Revision, p.Versions, p.Bytes)
}

func (c *core) showPart(t tally, part replication.Part) {
	differs := len(t.differ) > 0
	switch was := c.doubts.parts.differs.Swap(differs); {
	case differs && !was:
		c.options.Logger.Error("the pods read different data from their disks: keep a copy of each volume and report this; "+
			"a pod that a majority contradicts clones again by itself",
			slog.Any("pods", t.differ), slog.String("part", describePart(part)))
	case was && !differs:
		c.options.Logger.Info("the pods read the same from their disks again", slog.String("part", describePart(part)))
	}
	c.showDiffers()
}

var errNobody = errors.New("there is nobody to compare with")

// tallyPart reads a part again, and asks every other member what it has.
func (c *core) tallyPart(ctx context.Context, part replication.Part) (tally, replication.Part, error) {
	st := c.store.Load()
	log, err := c.needLog()
	if err != nil || st == nil {
		return tally{}, part, errNobody
	}
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	own, _, err := st.Part(ctx, part)
	if err != nil {
		return tally{}, part, err
	}
	voters, votes := electorate(log)
	others := c.others(log)
	answers := askMembers(others, func(pod string) (hash [sha256.Size]byte, known bool) {
		theirs, err := log.ComparePart(ctx, pod, own)
		return theirs.Hash, err == nil
	})
	var got []said[[sha256.Size]byte]
	for range others {
		got = append(got, <-answers)
	}
	return judge(own.Hash, votes, voters, got), own, nil
}

// comparePart compares with the master what this pod has of a part. It is true when they
// have the same, and on the master, whom the others ask.
func (c *core) comparePart(ctx context.Context, own replication.Part) bool {
	log, err := c.needLog()
	if err != nil || log.IsMaster() {
		return err == nil
	}
	master, ok := log.Master()
	if !ok || master == c.options.Name { // It is not ready to lead yet.
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, compareTimeout)
	defer cancel()
	theirs, err := log.ComparePart(ctx, master, own)
	if err == nil && theirs.Hash != own.Hash {
		c.doubts.parts.raise(own)
	}
	return err == nil && theirs.Hash == own.Hash
}
