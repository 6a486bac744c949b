package replication

import (
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/batondb/baton/replication/internal/handshake"
	"github.com/hashicorp/raft"
)

const (
	// probes is how often a master that went away is called, with probePause after
	// each time: a process that ends is gone within it.
	probes     = 10
	probePause = 20 * time.Millisecond
	// rankPause is left to each voter before this one to be elected.
	rankPause = 100 * time.Millisecond
)

// vigil notices a master whose process has died long before its heartbeats are
// missed: the kernel closes the dead process' connections, and refuses new ones.
//
// The proof needed is that the master has no connection to this pod left, and
// that its port refuses one, twice. A master that is cut off, slow or paused
// refuses nothing, and is left to the heartbeat. A wrong conclusion costs an
// election and nothing else: votes go by the log, as ever.
//
// The voter of the lowest ordinal stands at once, the next ones only if no new
// master came of it; together they would split the votes.
type vigil struct {
	*engine
	port *port
}

func (g *vigil) run(ctx context.Context) {
	if all := voters(g.raft.GetConfiguration().Configuration()); len(all) == 1 && all[0] == g.self {
		g.stand() // there is nobody to wait for
	}
	for {
		select {
		case <-ctx.Done():
			return
		case gone := <-g.port.left:
			rank, votes := g.rank(gone)
			if !votes || !g.missed(gone) || !g.dead(ctx, gone) {
				continue
			}
			if sleep(ctx, time.Duration(rank)*rankPause); ctx.Err() == nil && g.missed(gone) {
				g.slog.Info("the master's process is gone; this pod stands for election", "master", gone)
				g.stand()
			}
		}
	}
}

// missed says whether m was the last master, and no other one is known. That
// none is known at all is no reason to wait: a candidate with a shorter log
// may have lost meanwhile.
func (g *vigil) missed(m MemberID) bool {
	v := g.views.load()
	return !v.leads && v.last == m && (v.master == "" || v.master == m)
}

// rank is how many living voters come before this one.
func (g *vigil) rank(gone MemberID) (rank int, votes bool) {
	all := voters(g.roster.now.Load().Configuration)
	slices.SortFunc(all, func(a, b MemberID) int { return byOrdinal(a.Pod(), b.Pod()) })
	for _, id := range all {
		switch id {
		case g.self:
			return rank, true
		case gone:
		default:
			rank++
		}
	}
	return 0, false
}

// dead looks again when a connection breaks at once: a process that ends closes
// its connections and its listener one after the other.
func (g *vigil) dead(ctx context.Context, m MemberID) bool {
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

func (g *vigil) probe(ctx context.Context, m MemberID) error {
	ctx, cancel := context.WithTimeout(ctx, g.timing.Heartbeat/2)
	defer cancel()
	conn, err := g.port.dial(ctx, handshake.Calls, m.Pod(), m)
	if err == nil {
		conn.Close()
	}
	return err
}

// stand makes this pod a candidate at once, as a master that hands over does.
func (g *vigil) stand() {
	err := g.transport.TimeoutNow(raft.ServerID(g.self), raft.ServerAddress(g.self), &raft.TimeoutNowRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax},
	}, &raft.TimeoutNowResponse{})
	if err != nil {
		g.slog.Debug("standing for election", "error", err)
	}
}
