package raftio

import (
	"math"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/raftlog"
)

// proven bounds what may be applied: an entry that was appended here while this
// pod led, or that a message of a master ends with or beyond. Whatever a pod has
// beyond both comes from an earlier master, perhaps from itself, and may never
// have been committed. This checks bound and the library, at no measurable cost.
// (TestWhatWasNotProvenIsNotApplied)
type proven struct {
	mu sync.Mutex // guards the fields below
	// told is the end of the longest message.
	told uint64
	// led is the last entry that was stored, and its term.
	led, ledTerm uint64
}

// message notes that a master of a term sends entries up to end. A newer master
// than this pod was has all that this pod has committed, and its first message
// begins behind it: what was stored before does not count any more.
func (p *proven) message(term, end uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = max(p.told, end)
	if term > p.ledTerm {
		p.led = 0
	}
}

func (p *proven) stored(last *raft.Log) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.led, p.ledTerm = last.Index, last.Term
}

// end is the last entry that may be applied. nil: any; a recovery takes what there is.
func (p *proven) end() uint64 {
	if p == nil {
		return math.MaxUint64
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.told, p.led)
}

// provenLog is the library's log, whose entries are noted before they are stored.
type provenLog struct {
	*raft.LogCache
	proven *proven
}

func newProvenLog(log *raftlog.Log, p *proven) (*provenLog, error) {
	cache, err := raft.NewLogCache(cachedEntries, log)
	return &provenLog{cache, p}, err
}

// StoreLog implements raft.LogStore.
func (l *provenLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l *provenLog) StoreLogs(entries []*raft.Log) error {
	if n := len(entries); n > 0 {
		l.proven.stored(entries[n-1])
	}
	return l.LogCache.StoreLogs(entries)
}
