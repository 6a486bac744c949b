// Package peer is the peer port: one listener, whose connections begin with a
// handshake that names the cluster, the caller and whom it wants to reach, and go
// to Raft or to gRPC after it; and the connections to other pods, which are found
// by their names.
package peer
