// Package faults runs a cluster of three real kvd processes with proxies
// between them, lets clients loose on it, breaks it by a schedule drawn from a
// seed, heals it, and checks everything that the clients saw (package history).
//
// Its nouns:
//
//   - A Cluster is the pods: processes with a data directory each.
//   - The Network is the proxies between pods and before their client ports. A
//     path is one direction from one of them to another: blocked, slow or narrow.
//   - A session is one client; the workload is many, with watchers and lease holders.
//   - A Fault is one way to break things, a row of the table in fault.go. The
//     nemesis draws faults and runs them one after the other.
//
// To add a fault, add a row. README.md lists the bugs that were found.
package faults
