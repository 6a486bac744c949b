package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
)

const (
	// trailLength is how many entries another pod may be behind and still be
	// compared with: about a second of a full load.
	trailLength = 8192
	// compareTick is how often a follower that nobody reads from compares.
	compareTick = time.Second
)

// Mark is what a pod had after it applied an entry: the same on every pod (Raft
// paper, 5.2: state machine safety). Index 0: nothing is known.
type Mark struct {
	Index    uint64 // Of the entry.
	Revision int64
	Hash     uint64 // The running hash of all that was applied.
}

func (m Mark) proto() *peerv1.Mark {
	return &peerv1.Mark{Index: m.Index, Revision: m.Revision, Hash: m.Hash}
}

func markOf(m *peerv1.Mark) Mark {
	return Mark{Index: m.GetIndex(), Revision: m.GetRevision(), Hash: m.GetHash()}
}

func (m Mark) String() string {
	return fmt.Sprintf("revision %d and hash %016x", m.Revision, m.Hash)
}

// trail are the marks of the entries that this pod applied last.
type trail struct {
	mu     sync.Mutex // guards the fields below
	marks  [trailLength]Mark
	newest Mark
}

func (t *trail) note(m Mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest, t.marks[m.Index%trailLength] = m, m
}

func (t *trail) last() Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.newest
}

// at returns the zero mark when it is not known what this pod had after an entry.
func (t *trail) at(index uint64) Mark {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.marks[index%trailLength]; m.Index == index {
		return m
	}
	return Mark{}
}

// agree holds what this pod had after an entry to what another pod had. It
// returns ErrDiffers unless they are the same, or one is not known, or
// Options.Differs says that this pod may serve all the same.
func (r *reading) agree(pod string, theirs Mark) error {
	own := r.trail.at(theirs.Index)
	if own.Index == 0 || own == theirs {
		return nil
	}
	err := fmt.Errorf("%w: after entry %d this pod had %s, %s had %s", ErrDiffers, own.Index, own, pod, theirs)
	if r.differs != nil && r.differs(pod, err.Error()) {
		return nil
	}
	return err
}

// compareIdly compares with the master what nobody reads: local reads and watches
// ask nobody, and a master that differs hears of it from a follower.
func (n *Node) compareIdly(ctx context.Context) {
	e := n.engine.Load()
	tick := time.NewTicker(compareTick)
	defer tick.Stop()
	compared := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		last := e.trail.last().Index
		if last == compared || e.views.load().leads {
			continue
		}
		reading, cancel := context.WithTimeout(ctx, compareTick)
		if n.LinearizableRead(reading) == nil {
			compared = last
		}
		cancel()
	}
}

// Mark is that of the entry that this pod has applied last.
func (n *Node) Mark() Mark {
	if e := n.engine.Load(); e != nil {
		return e.trail.last()
	}
	return Mark{}
}

// CompareWith asks a pod what it had after the entry of own, and tells it what
// this pod had. The pod answers when it has applied the entry; with index 0 when
// it does not remember.
func (n *Node) CompareWith(ctx context.Context, pod string, own Mark) (Mark, error) {
	conn, err := n.calls.conn(pod)
	if err != nil {
		return Mark{}, err
	}
	answer, err := peerv1.NewPeerServiceClient(conn).Compare(ctx, &peerv1.CompareRequest{Pod: n.opts.Name, Own: own.proto()})
	if err != nil {
		return Mark{}, err
	}
	return markOf(answer.GetMark()), nil
}
