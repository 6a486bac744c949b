// Package node is this pod's part in the cluster: bootstrap, membership by ordinal,
// clone, failure detection, hand-over, recovery. It puts the parts together, and
// starts and ends every goroutine.
//
// # Life of a node
//
// Open takes the volume's lock and opens the peer port; Arrive returns when
// there is a database to open (it was there, or the cluster was bootstrapped,
// or a clone was received); Start runs Raft over the opened database and joins;
// Close hands the baton over and stops. After Failed the process must end.
//
// # Invariants
//
//   - The log always reaches back to the database on disk (and one entry
//     further): after a crash the rest is replayed from it.
//   - A write has three outcomes: its result, an error after which it certainly
//     was not applied, or ErrUnknown. Nothing that was handed to Raft and not
//     answered by the state machine is ever reported as not applied.
//   - A read on a follower is answered only after what the master had acknowledged
//     before it was compared: revision and running hash after the same entry.
//   - Two incarnations of one pod are never voters together.
//   - A member gives up its data only after its removal, or the loss of its vote, is
//     committed, on the word of a master that a quorum has just confirmed.
//   - Silence decides nothing: bootstrap needs an answer of every listed peer.
//
// # Caveats
//
// A Command given to Propose must not be changed afterwards. The library's
// InstallSnapshot stops a follower's log while it runs; it is the last resort
// after the log and the clone.
package node
