package replication

import (
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"time"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/batondb/baton/replication/internal/policy"
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
	replica *replica
	timing  Timing
	port    *port
	// inspect asks pods what they have.
	inspect func(ctx context.Context, pods []string) map[string]*peerv1.InspectResponse
}

func (g *failureDetector) run(ctx context.Context) {
	g.assemble(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case gone := <-g.port.left:
			rank, votes := policy.Rank(g.replica.self, gone, voters(g.replica.membership.now.Load().Configuration))
			if !votes || !g.missed(gone) || !g.dead(ctx, gone) {
				continue
			}
			if sleep(ctx, time.Duration(rank)*rankPause); ctx.Err() == nil && g.missed(gone) {
				g.replica.logger.Info("the master's process is gone; this pod stands for election", "master", gone)
				g.replica.campaign()
			}
		}
	}
}

// assemble looks, after a start, whether every voter has started and none has a
// master: nobody has to be waited for then, and the one with the best log stands
// at once. Raft lets anybody stand at any time; what the pods say of themselves
// here only saves an election that nobody would win (TestAllStartTogether).
func (g *failureDetector) assemble(ctx context.Context) {
	all := voters(g.replica.configuration())
	if !slices.Contains(all, g.replica.self) {
		return
	}
	var others []string
	for _, m := range all {
		if m != g.replica.self {
			others = append(others, m.Pod())
		}
	}
	for began := time.Now(); ctx.Err() == nil && time.Since(began) < 2*g.timing.Heartbeat; sleep(ctx, probePause) {
		seen := g.inspect(ctx, others)
		if g.replica.views.load().last != "" || slices.ContainsFunc(all, func(m MemberID) bool { return seen[m.Pod()].GetMaster() }) {
			return
		}
		if best, complete := policy.BestVoter(g.replica.self, g.replica.storage.lastEntry(), all, seenAs(seen)); complete {
			if best == g.replica.self {
				g.replica.logger.Info("every voter has just started; this pod has the best log and stands for election")
				g.replica.campaign()
			}
			return
		}
	}
}

// missed says whether m was the last master, and no other one is known. That
// none is known at all is no reason to wait: a candidate with a shorter log
// may have lost meanwhile.
func (g *failureDetector) missed(m MemberID) bool {
	v := g.replica.views.load()
	return !v.leads && v.last == m && (v.master == "" || v.master == m)
}

// dead looks again when a connection breaks at once: a process that ends closes
// its connections and its listener one after the other.
func (g *failureDetector) dead(ctx context.Context, m MemberID) bool {
	refused := 0
	for range probes {
		if g.port.connected(m) {
			return false
		}
		switch err := g.probe(ctx, m); {
		case errors.Is(err, syscall.ECONNREFUSED):
			if refused++; refused == 2 {
				return true
			}
		case !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF):
			return false // It answers, or nothing does.
		}
		sleep(ctx, probePause)
	}
	return false
}

func (g *failureDetector) probe(ctx context.Context, m MemberID) error {
	ctx, cancel := context.WithTimeout(ctx, g.timing.Heartbeat/2)
	defer cancel()
	conn, err := g.port.dial(ctx, handshake.Calls, m.Pod(), m)
	if err == nil {
		conn.Close()
	}
	return err
}
