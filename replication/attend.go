package replication

import (
	"context"
	"fmt"
	"time"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/volume"
	"github.com/hashicorp/raft"
)

const (
	// attendTick is how often a voter looks after its membership.
	attendTick = time.Second
	// askAfter is how long a voter hears nothing of a master before it asks
	// around whether it was removed.
	askAfter = 2 * time.Second
)

// attendant looks after this pod's own membership: asks to be taken in until
// it votes, and finds out when it was removed.
type attendant struct {
	node *Node
	*engine
	// absent is since when no master is known; zero: one is.
	absent time.Time
	name   nameWatch
}

func newAttendant(n *Node, e *engine) *attendant { return &attendant{node: n, engine: e} }

func (a *attendant) run(ctx context.Context) {
	a.absent = a.absent.Add(-askAfter) // ask at once after a start
	for ctx.Err() == nil {
		votes, err := a.review()
		if err != nil {
			a.slog.Debug("the attendant ends", "error", err)
			return
		}
		if a.views.load().master != "" {
			a.absent = time.Time{}
			a.cold.Store(false)
		} else {
			if a.absent.IsZero() {
				a.absent = time.Now()
			}
			a.name.look(a.node)
		}
		wait := attendTick
		if !votes || !a.absent.IsZero() && time.Since(a.absent) >= askAfter {
			a.ask(ctx)
			wait = a.node.opts.Timing.Retry / 2
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-a.roster.changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// review compares the committed membership with what this pod knows of itself.
func (a *attendant) review() (votes bool, err error) {
	m := a.roster.now.Load()
	joined := a.node.volume.Identity().JoinedIndex
	me, member := server(m.Configuration, a.self)
	switch {
	case member && joined == 0:
		err = a.node.volume.Update(func(id *volume.Identity) { id.JoinedIndex = m.index })
	case !member && joined > 0 && m.index > joined:
		err = a.node.retire(fmt.Sprintf("%s was removed from the membership at index %d", a.self, m.index))
	}
	return member && me.Suffrage == raft.Voter, err
}

// ask asks the master to take this pod in, or whether it still is a member.
func (a *attendant) ask(ctx context.Context) {
	pod := a.views.load().master.Pod()
	if pod == "" {
		seen := a.node.inspect(ctx, a.node.neighbours())
		var ok bool
		if pod, ok = masterOf(seen); !ok {
			a.cold.Store(a.quorumAbsent(seen))
			return
		}
	}
	if pod == a.self.Pod() {
		return
	}
	conn, err := a.conn(pod)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	answer, err := peerv1.NewPeerServiceClient(conn).Join(ctx, &peerv1.JoinRequest{
		MemberId: string(a.self), Address: string(a.self),
		Index:     a.applied.value.Load(),
		Returning: a.node.volume.Identity().JoinedIndex > 0,
	})
	switch {
	case err != nil:
		a.slog.Debug("the master does not take this pod in now", "master", pod, "error", err)
	case answer.Removed:
		// The next review ends the attendant.
		a.node.retire(fmt.Sprintf("%s says that %s was removed from the membership", pod, a.self))
	}
}

// quorumAbsent says that a majority of the voters cannot be running: a cold
// start, one pod after the other, where the next pod is only created once this
// one is ready. Either a voter's name does not exist, and so the pod does not;
// or the pod says that it has another disk.
func (a *attendant) quorumAbsent(seen map[string]*peerv1.InspectResponse) bool {
	all := voters(a.roster.now.Load().Configuration)
	running := 0
	for _, id := range all {
		s := seen[id.Pod()]
		replaced := s != nil && s.MemberId != string(id)
		if id == a.self || !replaced && (s != nil || !a.node.absent(id.Pod())) {
			running++
		}
	}
	return len(all) > 0 && running <= len(all)/2
}

// catchUp notes when this pod has once had all that was acknowledged before.
func (a *attendant) catchUp(ctx context.Context) {
	for !a.caught.Load() && ctx.Err() == nil {
		if err := a.node.LinearizableRead(ctx); err == nil {
			a.caught.Store(true)
			return
		}
		sleep(ctx, a.node.opts.Timing.Retry)
	}
}
