// Package readindex makes reads of this pod's copy as fresh as they ask for.
//
// A read index is the master's commit index, confirmed by answers to messages that
// were sent after the read began (Raft thesis, 6.4). The library's own VerifyLeader
// also counts an answer that was under way before, which after a pause of the
// process may be arbitrarily old. Readers that come together share one index, and
// before any of them is answered the pod compares what it had with what the master
// had.
package readindex
