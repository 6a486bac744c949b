// Package audit writes down who did what: the caller and how it was proved, from
// which address, the method, the keys, the outcome and the revision. Never a value,
// and never what proves who somebody is.
//
// A Trail is where the records go, as JSON, one a line: a file that is replaced when
// it is large, or standard output. A Rule says which calls it has: those that write,
// those that touch a prefix, or all. Calls that are refused because of their caller are
// in every trail.
//
// # Invariants
//
//   - No call waits for a disk because of its record: what cannot be written soon is
//     dropped, counted in a metric, and the trail itself has a line with how many.
//   - A line is whole, also after a disk was full in the middle of one.
//
// # Caveats
//
// A record is made when the call has been answered, or is about to be, and goes to
// the operating system within moments; a machine that dies loses the last ones.
package audit
