// Package clienttest is a stand-in for a cluster in the process: for the tests of
// the client and of kvctl, and of programs that use the client. Its pods are doors
// to one real store, so what they answer is what a cluster would answer; there is
// no log, so nothing is replicated. What a cluster seldom does, a test asks for:
// answers that get lost, refused calls, no master, pods that stop.
package clienttest
