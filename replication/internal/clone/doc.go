// Package clone copies a database from one pod to another, at a pace that leaves
// the source's writes alone, and goes on where a connection was cut. What is
// received counts as data only when all of it is there.
package clone
