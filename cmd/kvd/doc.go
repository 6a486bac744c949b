// Command kvd is Baton's server: the composition root, the only place that
// knows all parts. It joins the store to the replicated node, and both to the
// server, and says in which order they begin (run.go) and end (stop.go).
//
//	kvd serve    one pod
//	kvd dev      a local cluster, each pod a process of its own
//	kvd recover  begin a new history when a majority of the volumes is lost
//	kvd adopt    make a copy of a cluster's volumes a cluster of its own
//	kvd version
//
// Only main exits; everything else returns errors.
package main
