package replication

import (
	"github.com/batondb/baton/replication/internal/logstream"
	"github.com/hashicorp/raft"
)

// Every message of the log passes here on its way to the library, whichever way
// it came, but for heartbeats, which have neither entries nor a commit index.

// relay gives Raft what comes through the library's transport.
func (t *transport) relay() {
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			if req, ok := rpc.Command.(*raft.AppendEntriesRequest); ok {
				t.admit(req)
			}
			select {
			case t.received <- rpc:
			case <-t.ctx.Done():
				return
			}
		case <-t.ctx.Done():
			return
		}
	}
}

// serve receives the pipelines of masters.
func (t *transport) serve(pipelines *acceptor) {
	for {
		conn, err := pipelines.next()
		if err != nil {
			return
		}
		t.serving.Go(func() {
			from := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(conn.from), Addr: []byte(conn.from)}
			if err := logstream.Serve(t.ctx, conn, from, t.admit, t.received); err != nil {
				t.slog.Debug("a pipeline has ended", "from", conn.from, "error", err)
			}
		})
	}
}

// admit prepares a message for the library.
func (t *transport) admit(req *raft.AppendEntriesRequest) {
	bound(req)
}

// end is the last entry that a follower is known to share with the sender of a
// message, once it has taken it.
func end(req *raft.AppendEntriesRequest) uint64 { return req.PrevLogEntry + uint64(len(req.Entries)) }

// bound makes a message say of no entry that it is committed but of those that
// it has, or that come before them: what a follower has after them may be of a
// master of before, and not be what was committed. ("min(leaderCommit, index of
// last new entry)", Raft paper, figure 2, AppendEntries, receiver 5.) The library
// takes the commit index when it puts a message together, which may be later than
// what else is in it; and as a receiver it takes its own last entry for the last
// new one. So both ends bound it, and the sender does before the message waits.
func bound(req *raft.AppendEntriesRequest) {
	req.LeaderCommitIndex = min(req.LeaderCommitIndex, end(req))
}
