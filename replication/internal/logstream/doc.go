// Package logstream is how entries of the log go from the master to a follower
// that has caught up: frames on a connection of their own, many on their way at
// a time, answered in order. (What is rarer, such as votes, heartbeats and
// snapshots, goes through the Raft library's own transport.)
//
// A request is a frame: the body's length and its CRC-32C, four bytes each, and
// the body: term, index and term of the entry before, commit index, eight bytes
// each, then the entries up to the body's end. An entry is its term, the time
// when the master appended it in nanoseconds (0: none), eight bytes each, its
// type in one byte, the lengths of data and extensions, four bytes each, and
// both. Its index follows from the one before.
//
// An answer has 21 bytes: term, last index, eight bytes each, flags in one, and
// the CRC-32C of these. All numbers are big-endian.
package logstream
