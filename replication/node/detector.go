package node

import (
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/batondb/baton/internal/sleep"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/raftio"
)

const (
	// probes is how often a master that went away is called, with probePause after
	// each time: a process that ends is gone within it.
	probes     = 10
	probePause = 20 * time.Millisecond
	// rankPause is left to each voter before this one to be elected.
	rankPause = 100 * time.Millisecond
)

// failureDetector notices a master whose process has died long before its heartbeats are
// missed: the kernel closes the dead process' connections, and refuses new ones.
//
// The proof needed is that the master has no connection to this pod left, and
// that its port refuses one, twice. A master that is cut off, slow or paused
// refuses nothing, and is left to the heartbeat. A wrong conclusion costs an
// election and nothing else: votes go by the log, as ever.
//
// The voter of the lowest ordinal stands at once, the next ones only if no new
// master came of it; together they would split the votes.
type failureDetector struct {
	replica *raftio.Replica
	timing  replication.Timing
	// left gets a member when its last Raft connection to this pod has ended.
	left <-chan replication.MemberID
	// connected says whether a member has a Raft connection to this pod.
	connected func(replication.MemberID) bool
	// probe calls a member's port.
	probe func(context.Context, replication.MemberID) error
	// inspect asks pods what they have.
	inspect func(ctx context.Context, pods []string) map[string]*peerv1.InspectResponse
}

func newFailureDetector(n *Node, e *engine) *failureDetector {
	return &failureDetector{
		replica: e.replica, timing: e.timing, inspect: n.inspect, left: n.port.Left, connected: n.port.Connected,
		probe: func(ctx context.Context, m replication.MemberID) error {
			conn, err := n.port.Dial(ctx, handshake.Calls, m.Pod(), m)
			if err == nil {
				conn.Close()
			}
			return err
		},
	}
}

func (g *failureDetector) run(ctx context.Context) {
	g.assemble(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case gone := <-g.left:
			rank, votes := policy.Rank(g.replica.Self, gone, raftio.Voters(g.replica.Membership.Load().Configuration))
			if !votes || !g.missed(gone) || !g.dead(ctx, gone) {
				continue
			}
			if sleep.For(ctx, time.Duration(rank)*rankPause); ctx.Err() == nil && g.missed(gone) {
				g.replica.Logger.Info("the master's process is gone; this pod stands for election", "master", gone)
				g.replica.Campaign()
			}
		}
	}
}

// assemble looks, after a start, whether every voter has started and none has a
// master: nobody has to be waited for then, and the one with the best log stands
// at once. Raft lets anybody stand at any time; what the pods say of themselves
// here only saves an election that nobody would win (TestAllStartTogether).
func (g *failureDetector) assemble(ctx context.Context) {
	all := raftio.Voters(g.replica.Configuration())
	if !slices.Contains(all, g.replica.Self) {
		return
	}
	var others []string
	for _, m := range all {
		if m != g.replica.Self {
			others = append(others, m.Pod())
		}
	}
	for began := time.Now(); ctx.Err() == nil && time.Since(began) < 2*g.timing.Heartbeat; sleep.For(ctx, probePause) {
		seen := g.inspect(ctx, others)
		if g.replica.Views.Load().Last != "" || slices.ContainsFunc(all, func(m replication.MemberID) bool { return seen[m.Pod()].GetMaster() }) {
			return
		}
		if best, complete := policy.BestVoter(g.replica.Self, lastEntry(g.replica), all, seenAs(seen)); complete {
			if best == g.replica.Self {
				g.replica.Logger.Info("every voter has just started; this pod has the best log and stands for election")
				g.replica.Campaign()
			}
			return
		}
	}
}

// missed says whether m was the last master, and no other one is known. That
// none is known at all is no reason to wait: a candidate with a shorter log
// may have lost meanwhile.
func (g *failureDetector) missed(m replication.MemberID) bool {
	v := g.replica.Views.Load()
	return !v.Leads && v.Last == m && (v.Master == "" || v.Master == m)
}

// dead looks again when a connection breaks at once: a process that ends closes
// its connections and its listener one after the other.
func (g *failureDetector) dead(ctx context.Context, m replication.MemberID) bool {
	refused := 0
	for range probes {
		if g.connected(m) {
			return false
		}
		switch err := g.call(ctx, m); {
		case errors.Is(err, syscall.ECONNREFUSED):
			if refused++; refused == 2 {
				return true
			}
		case !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF):
			return false // It answers, or nothing does.
		}
		sleep.For(ctx, probePause)
	}
	return false
}

func (g *failureDetector) call(ctx context.Context, m replication.MemberID) error {
	ctx, cancel := context.WithTimeout(ctx, g.timing.Heartbeat/2)
	defer cancel()
	return g.probe(ctx, m)
}
