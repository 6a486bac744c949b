package replication

import (
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// membership is the newest committed membership that this pod has applied.
type membership struct {
	now     atomic.Pointer[configurationAt]
	changed chan struct{} // has a token after a change; one waiter
}

type configurationAt struct {
	index uint64
	raft.Configuration
}

func newMembership(at Position) *membership {
	r := &membership{changed: make(chan struct{}, 1)}
	m := &configurationAt{index: at.ConfigurationIndex}
	if len(at.Configuration) > 0 {
		m.Configuration = raft.DecodeConfiguration(at.Configuration)
	}
	r.now.Store(m)
	return r
}

func (r *membership) set(index uint64, c raft.Configuration) {
	r.now.Store(&configurationAt{index, c})
	select {
	case r.changed <- struct{}{}:
	default:
	}
}
