// Package server is what clients talk to: gRPC in and out, and HTTP for probes,
// metrics and profiles. A handler validates the request, calls the log or the
// store, maps the error and fills in the header; it decides nothing else.
//
// Its nouns:
//
//   - The Log is what the server needs of the replicated log. It and the store
//     appear while the process starts: a Server answers from its first moment,
//     with NOT_READY until UseLog and UseStore were called, so that probes and
//     status work while the pod clones.
//   - Every service, etcd's too, is registered through instrumented, which gives
//     each call a deadline or an end, and its place in the metrics.
//   - The peerStatuses are what this pod last heard of each member, asked every
//     other second: for hints to clients and for the space on every volume.
//   - The leaseExpirer holds the deadlines of leases, only while this pod is the
//     master.
//
// # Invariants
//
// Every error that leaves has a gRPC code, and a reason when a program can
// react to it; internal/refusal has the one table.
//
// Everything has a bound; limits.go has each of them with its reason. What clients hold
// is shared by who calls, in quotas; bounds has all of them.
//
// Only the master's clock counts, and only its monotonic part: RunMaster holds
// all that looks at it. A lease never ends early: its time starts when the
// master first sees it, and again at each change of master.
//
// No pod acts on another's word about its data. Each pod compares what it had after
// an entry with what the others had, every minute and when the log has seen a
// difference. Meanwhile it serves no reads. One that a strict majority contradicts
// refuses service, and sets its data aside and clones again once the others can do
// without its vote; if nobody can tell who is wrong, the master alone serves.
package server
