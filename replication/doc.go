// Package replication has the words of an ordered, durable log of commands and of
// who is in it: members, positions, the state machine that the log drives, what a
// node is given and what it says of itself, and its errors. Nothing runs here; see
// the package node.
//
// A pod is a name with an ordinal, kv-0. A member is one incarnation of a
// pod's disk, "kv-0/<uuid>": a pod that lost its disk is a new member, and never
// votes with a log that it forgot. The cluster has a uuid, too; both are in the
// handshake of every connection between pods. The master is the pod that Raft
// calls the leader once it is ready: once it has applied an entry of its own
// term. A learner is a member that does not vote yet.
package replication
