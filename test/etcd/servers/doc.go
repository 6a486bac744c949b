// Package servers builds and starts what the tests talk to: etcd's real server,
// and clusters of kvd, as processes on loopback. They end with their test.
package servers
