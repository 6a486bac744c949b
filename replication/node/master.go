package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/replication/internal/entry"
)

// followLeadership waits for the library to say that this pod leads, and runs one
// leadership after the other.
func (e *engine) followLeadership(ctx context.Context, runMaster func(context.Context), fail func(error)) {
	before := make(chan struct{})
	close(before)
	cancel := func() {}
	defer func() { cancel(); <-before }()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-e.replica.Leading:
			cancel()
			if leads {
				cancel, before = e.beginLeading(ctx, before, runMaster, fail)
			}
		}
	}
}

// beginLeading starts a leadership that waits for the end of the one before.
func (e *engine) beginLeading(ctx context.Context, before <-chan struct{}, runMaster func(context.Context), fail func(error)) (cancel func(), ended chan struct{}) {
	ctx, cancel = context.WithCancel(ctx)
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		<-before
		e.lead(ctx, runMaster, fail)
	}()
	return cancel, ended
}

// lead is all that only the master does. It returns after ctx has ended.
func (e *engine) lead(ctx context.Context, runMaster func(context.Context), fail func(error)) {
	term, ok := e.commitFirstEntry(ctx, fail)
	if !ok {
		return
	}
	e.replica.Views.MarkReady(e.replica.Raft, term)
	e.logger.Info("this pod is the master", "term", term)
	defer e.logger.Info("this pod is no longer the master", "term", term)
	var wg sync.WaitGroup
	wg.Go(func() { e.changer.run(ctx) })
	if runMaster != nil {
		wg.Go(func() { runMaster(ctx) })
	}
	wg.Wait()
}

// commitFirstEntry commits and applies an entry of this term: only then is the commit
// index what the last master had acknowledged. The entry is one without
// commands, because the library's no-op never reaches the state machine, whose
// index others wait for.
//
// A pod that has just been elected hands over to nobody. If its Raft goes on
// claiming that, it is stuck for ever (see lateSuccessor), and the process must
// end.
func (e *engine) commitFirstEntry(ctx context.Context, fail func(error)) (term uint64, ok bool) {
	data := []byte{entry.Version}
	stuck := time.Now().Add(e.timing.Transport + 4*e.timing.Election) // A hand-over of an earlier leadership may be about to end.
	for ctx.Err() == nil {
		term := e.replica.Raft.CurrentTerm()
		err := e.replica.Await(e.replica.Raft.ApplyLog(raft.Log{Data: data, Extensions: entry.Checksum(data)}, 0))
		if err == nil && term == e.replica.Raft.CurrentTerm() {
			return term, true
		}
		if errors.Is(err, raft.ErrLeadershipTransferInProgress) && time.Now().After(stuck) {
			fail(fmt.Errorf("the log takes no writes: %w, and will be for ever", err))
			return 0, false
		}
		sleep.For(ctx, 10*time.Millisecond)
	}
	return 0, false
}
