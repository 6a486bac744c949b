// Package masterstream carries the calls of many callers over one stream to the
// master, and hands each its answer. A Session is one stream to one master: it
// sends until the stream breaks or the master is replaced, then waits a while for
// the answers that are still to come, and tells the callers of the rest that they
// are lost. Every goroutine that it starts is in its owner's WaitGroup.
package masterstream
