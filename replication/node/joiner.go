package node

import (
	"context"
	"fmt"
	"time"

	"github.com/batondb/baton/internal/sleep"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/raftio"
	"github.com/batondb/baton/replication/internal/volume"
)

const (
	// joinTick is how often a voter looks after its membership.
	joinTick = time.Second
	// askAfter is how long a voter hears nothing of a master before it asks
	// around whether it was removed.
	askAfter = 2 * time.Second
	// catchUpRounds bounds how often a pod that catches up looks again.
	catchUpRounds = 20
	// sayAfter is how long there is no master before a pod tells what it has:
	// longer than any election, and than most restarts.
	sayAfter = 15 * time.Second
)

// joiner looks after this pod's own membership: asks to be taken in until
// it votes, and finds out when it was removed.
type joiner struct {
	node   *Node
	engine *engine
	// absent is since when no master is known; zero: one is.
	absent time.Time
	said   bool // what this pod has, since then
	name   nameWatch
	// names watches the names of the pods that ask this one.
	names map[string]*nameWatch
}

func newJoiner(n *Node, e *engine) *joiner {
	return &joiner{node: n, engine: e, names: map[string]*nameWatch{}}
}

func (a *joiner) run(ctx context.Context) {
	a.absent = time.Now().Add(-askAfter) // ask at once after a start
	for ctx.Err() == nil {
		changed := a.engine.replica.Membership.Load().Changed
		votes, err := a.review(ctx)
		if err != nil {
			a.engine.logger.Debug("the joiner ends", "error", err)
			return
		}
		if a.engine.replica.Views.Load().Master != "" {
			a.absent, a.said = time.Time{}, false
			a.engine.cold.Store(false)
		} else {
			if a.absent.IsZero() {
				a.absent = time.Now()
			}
			a.name.look(a.node, a.node.opts.Name)
			a.sayWhatThereIs()
		}
		a.lookForCallers()
		wait := joinTick
		if !votes || !a.absent.IsZero() && time.Since(a.absent) >= askAfter {
			a.ask(ctx)
			wait = a.node.opts.Timing.Retry / 2
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// lookForCallers looks for the names of the pods that reach this one: a pod
// itself cannot tell that its name is missing, for Kubernetes writes it to the
// pod's own /etc/hosts.
func (a *joiner) lookForCallers() {
	for _, pod := range a.node.answers.callers.recent() {
		if a.names[pod] == nil {
			a.names[pod] = &nameWatch{}
		}
		a.names[pod].look(a.node, pod)
	}
}

// sayWhatThereIs tells, once, what a person needs who looks for the pod to
// recover from.
func (a *joiner) sayWhatThereIs() {
	if a.said || time.Since(a.absent) < sayAfter+askAfter {
		return
	}
	a.said = true
	a.engine.logger.Warn("there is no master: a majority of the voters must run and reach each other. If the volumes of a majority are lost, "+
		"run kvd recover --lost, with the names of their pods, in the pod with the highest last_log_term and, of those, the highest last_index", a.node.inventory(a.engine)...)
}

// review compares the committed membership with what this pod knows of itself.
func (a *joiner) review(ctx context.Context) (votes bool, err error) {
	m := a.engine.replica.Membership.Load()
	votes, joined, removed := policy.Standing{
		Self: a.engine.self, Members: members(m.Configuration), Index: m.Index, Joined: a.node.volume.Identity().JoinedIndex,
	}.Review()
	switch {
	case joined:
		if err := a.node.volume.Update(func(id *volume.Identity) { id.JoinedIndex = m.Index }); err != nil {
			a.engine.logger.Debug("that this pod has joined is not noted yet", "error", err) // The next review tries it again.
		}
	case removed != "":
		err = a.node.retire(ctx, removed)
	}
	return votes, err
}

// ask asks the master to take this pod in, or whether it still is a member.
func (a *joiner) ask(ctx context.Context) {
	pod := a.engine.replica.Views.Load().Master.Pod()
	if pod == "" {
		seen := a.node.seen(ctx)
		var ok bool
		if pod, ok = seen.Master(); !ok {
			a.engine.cold.Store(a.quorum(seen).Missing())
			return
		}
	}
	if pod == a.engine.self.Pod() || a.node.condemned() != "" {
		return // With data of no use it asks to be let go, see Reclone.
	}
	conn, err := a.engine.conn(pod)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	answer, err := peerv1.NewPeerServiceClient(conn).Join(ctx, &peerv1.JoinRequest{
		MemberId: string(a.engine.self), Address: string(a.engine.self),
		Index:     a.engine.replica.Applied.Value.Load(),
		Returning: a.node.volume.Identity().JoinedIndex > 0,
	})
	switch {
	case err != nil:
		a.engine.logger.Debug("the master does not take this pod in now", "master", pod, "error", err)
	case answer.Removed:
		// The next review ends the joiner.
		a.node.retire(ctx, fmt.Sprintf("%s says that %s was removed from the membership", pod, a.engine.self))
	}
}

// quorum is what this pod knows of the voters of the latest membership in its
// log, the one that elections go by: after a crash what was applied lags behind
// it, and nothing is applied without a quorum.
func (a *joiner) quorum(seen policy.Seen) policy.Quorum {
	q := policy.Quorum{
		Self: a.engine.self, Last: lastEntry(a.engine.replica), Voters: raftio.Voters(a.engine.replica.Configuration()), Seen: seen,
	}
	q.Absent = a.node.absentAmong(q.Silent())
	return q
}

// catchUp marks this pod as caught up once a linearizable read is quick. A slow
// one proves nothing, since more writes arrived meanwhile. Under a load that the
// pod can barely keep up with, a number of attempts is enough.
func (a *joiner) catchUp(ctx context.Context) {
	for round := 0; ctx.Err() == nil; {
		asked := time.Now()
		if err := a.node.LinearizableRead(ctx); err != nil {
			sleep.For(ctx, a.node.opts.Timing.Retry)
			continue
		}
		if round++; time.Since(asked) < a.engine.timing.Election/4 || round == catchUpRounds {
			a.engine.caught.Store(true)
			return
		}
	}
}
