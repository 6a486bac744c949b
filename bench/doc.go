// Command bench compares Baton with etcd, on one machine and in one run.
//
// It builds etcd's real server (from etcd's Go module, see the folder etcd) and
// kvd (from ../cmd/kvd), starts three pods of one of them as processes on
// loopback, measures, stops them, and does the same with the other: round after
// round, never both at a time. Both keep their defaults: fsync is on.
//
// The nouns:
//
//   - System is a database: how its server is started and spoken to.
//   - Cluster is three running pods of a System, with their processes.
//   - Client is one gRPC connection to one pod. Both systems are called
//     through the stubs that protoc generates, so no client library of either
//     is part of what is measured (the measurements batch and api are the
//     exceptions, and say so).
//   - Load is a number of callers that call one after the other, each waiting
//     for its answer (a closed loop).
//   - Measurement is one experiment; it gives a Round of named values for one
//     system. The report has the median over the rounds, and the ratio.
//
// Every process is ended by its id, even if the benchmark itself is killed.
package main
