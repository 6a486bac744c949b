package raftio

import (
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication"
)

// Membership is the newest committed membership that this pod has applied.
type Membership struct {
	now atomic.Pointer[MembershipAt]
}

// MembershipAt is a membership and the index of its entry.
type MembershipAt struct {
	Index         uint64
	Configuration raft.Configuration
	Changed       chan struct{} // closed when there is a newer one
}

func newMembership(at replication.Position) *Membership {
	m := &Membership{}
	c := &MembershipAt{Index: at.ConfigurationIndex, Changed: make(chan struct{})}
	if len(at.Configuration) > 0 {
		c.Configuration = raft.DecodeConfiguration(at.Configuration)
	}
	m.now.Store(c)
	return m
}

// Load is the membership now.
func (m *Membership) Load() *MembershipAt { return m.now.Load() }

// set is called by one goroutine at a time: the one that applies.
func (m *Membership) set(index uint64, c raft.Configuration) {
	old := m.now.Swap(&MembershipAt{index, c, make(chan struct{})})
	close(old.Changed)
}

// Voters of a configuration.
func Voters(c raft.Configuration) []replication.MemberID {
	var ids []replication.MemberID
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, replication.MemberID(s.ID))
		}
	}
	return ids
}
