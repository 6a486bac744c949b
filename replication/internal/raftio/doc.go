// Package raftio runs the Raft library over this pod's log, votes and state
// machine, and stands in the way of every message: where the library promises less
// than Raft does, the difference is made up for here.
//
// # Invariants
//
//   - A follower commits no entry that no message of the present master reaches,
//     and takes what it has applied itself for matched (see bound and rebase).
//   - An answer that confirms entries counts only once this pod may count it (see
//     raftlog.Log.Overlap).
//   - Entries are applied once, in order, and only those that a master has shown
//     (see proven); otherwise the pod ends.
//
// A Replica says what it knows of the group: the view of who leads, the newest
// committed membership, who has confirmed what and when, what is applied, and the
// marks of the last entries.
package raftio
