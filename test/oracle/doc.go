// Package oracle compares what pods apply, entry by entry, at the moment when
// they do: at one place of the log all pods must apply the same ("state machine
// safety" of the Raft paper, figure 3). A difference is told at the first entry
// that has it, and not when a pod's data has been compared, or replaced by a
// clone that hides it.
//
// # Nouns
//
// A Log is what any pod has applied in one history. A new history (a restored
// backup, a recovery) begins at other indexes, and needs a Log of its own. A pod
// that was restarted, or that has cloned, records in the same one: what is
// applied again must be what it was.
package oracle
