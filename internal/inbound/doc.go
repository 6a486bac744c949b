// Package inbound bounds what clients of a gRPC port send before a call's handler
// sees any of it: connections, calls, and messages that have begun to arrive.
//
// gRPC itself takes in as many unfinished messages as its clients like, for as long
// as they like. So a Port stands between each connection and gRPC's framer, and
// follows the frames. (The framer reads from it directly: give gRPC no read buffer of
// its own.) When the first frame of a message shows that the rest is still to come,
// its declared length is taken from what the caller may have; if that is too much, the
// length that gRPC is shown is one that it refuses with RESOURCE_EXHAUSTED. A message
// that does not arrive in time is ended for gRPC, too. Answers are followed: a call counts
// until its end is written.
//
// What is of no use, and costs a pod more than its sender, is counted by address, and
// the connections that it comes from are read more slowly; see visitor.
package inbound
