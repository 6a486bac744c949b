// Package etcd speaks etcd's v3 API over Baton's log and store, so that etcd's
// clients, etcdctl and Kubernetes' API server run on Baton unchanged.
//
// Nothing is kept here: a request is translated to the command or the read that
// the native API would use, and its answer back. What differs from etcd is in
// docs/etcd.md, and only that: a differential test compares the two.
//
// # Invariants
//
//   - An error that a client takes for "not applied" is only given when nothing
//     was applied. An unknown outcome is etcd's timeout.
//   - Every error is one of rpctypes, for clients go by its text, or one that
//     etcd has no case for and that says what to do.
package etcd
