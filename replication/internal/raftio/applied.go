package raftio

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// AppliedIndex is the index that the state machine has, and those who wait for
// it to get further.
type AppliedIndex struct {
	Value atomic.Uint64

	mu     sync.Mutex // guards groups
	groups []*appliedGroup
}

// appliedGroup are the waiters for one index; readers of one read index share it.
type appliedGroup struct {
	index   uint64
	waiters int
	reached chan struct{}
}

func (a *AppliedIndex) Advance(index uint64) {
	a.Value.Store(index)
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for n < len(a.groups) && a.groups[n].index <= index {
		close(a.groups[n].reached)
		n++
	}
	a.groups = slices.Delete(a.groups, 0, n)
}

func (a *AppliedIndex) find(index uint64) (int, bool) {
	return slices.BinarySearchFunc(a.groups, index, func(g *appliedGroup, i uint64) int { return cmp.Compare(g.index, i) })
}

// Wait returns when index is applied, or with the error of ctx.
func (a *AppliedIndex) Wait(ctx context.Context, index uint64) error {
	if a.Value.Load() >= index {
		return nil
	}
	a.mu.Lock()
	// advance stores before it takes the lock: either it is seen here, or it
	// will see this waiter.
	if a.Value.Load() >= index {
		a.mu.Unlock()
		return nil
	}
	i, found := a.find(index)
	if !found {
		a.groups = slices.Insert(a.groups, i, &appliedGroup{index: index, reached: make(chan struct{})})
	}
	g := a.groups[i]
	g.waiters++
	a.mu.Unlock()
	select {
	case <-g.reached:
		return nil
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if g.waiters--; g.waiters == 0 {
		if i, found := a.find(index); found && a.groups[i] == g {
			a.groups = slices.Delete(a.groups, i, i+1)
		}
	}
	return ctx.Err()
}
