package replication

import (
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// roster is the newest committed membership that this pod has applied.
type roster struct {
	now     atomic.Pointer[membership]
	changed chan struct{} // has a token after a change; one waiter
}

type membership struct {
	index uint64
	raft.Configuration
}

func newRoster(at Position) *roster {
	r := &roster{changed: make(chan struct{}, 1)}
	m := &membership{index: at.ConfigurationIndex}
	if len(at.Configuration) > 0 {
		m.Configuration = raft.DecodeConfiguration(at.Configuration)
	}
	r.now.Store(m)
	return r
}

func (r *roster) set(index uint64, c raft.Configuration) {
	r.now.Store(&membership{index, c})
	select {
	case r.changed <- struct{}{}:
	default:
	}
}
