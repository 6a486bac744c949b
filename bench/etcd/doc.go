// Command etcd is etcd's real server, as its own release builds it: the peer
// that the benchmark compares Baton with.
package main
