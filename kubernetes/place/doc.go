// Package place decides whether the data of a volume may be served where the
// volume is, and looks after the answer while a pod runs.
//
// Its nouns:
//
//   - The place of a volume is its namespace, by name and uid. A volume that was
//     copied elsewhere is not in its place.
//   - The record says which cluster the StatefulSet runs; see package kubernetes.
//   - Facts are what a pod knows of its disk, its place and the record; a Verdict is
//     what Judge makes of them. Judge asks nobody, and does nothing.
//   - Settle holds a pod back until its data may be served. A Keeper looks again
//     and again while it is.
//
// # Invariants
//
// An API server that is down stops no pod that has data, except one that was told
// to begin another cluster.
//
// Data is given up only for a copy that leads already, and only after a person has
// chosen that copy.
package place
