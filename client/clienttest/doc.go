// Package clienttest is a stand-in for a cluster, in memory and in the process:
// for the tests of the client and of kvctl, and of programs that use the client.
// It keeps the rules of the API as a client sees them. It is no reference for
// the store, and its pods are doors to one and the same state.
package clienttest
