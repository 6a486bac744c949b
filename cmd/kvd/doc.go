// Command kvd is Baton's server: the composition root, the only place that
// knows all parts. It joins the store to the replicated log (adapters.go), and
// both to the server, and says in which order they begin and end (run.go).
//
//	kvd serve    one pod
//	kvd dev      a local cluster, each pod a process of its own
//	kvd version
//
// Only main exits; everything else returns errors.
package main
