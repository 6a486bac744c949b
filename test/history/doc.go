// Package history records what clients saw of a Baton cluster, and checks it.
//
// Its nouns:
//
//   - An Op is one call of one client: guards, writes and a read, with the
//     times of its call and return, and its outcome. Retries under one request
//     id are one Op.
//   - A Watch is what one watcher received, over as many streams as it took.
//   - A Log is the database's own history: every change of every revision, as a
//     watch of all keys from the first revision tells it.
//   - A Sample is what one pod said about itself at one moment.
//
// The checks:
//
//   - CheckLog: the log has no gaps and each change follows from those before.
//   - CheckSerial: the ops, put in the order of the revisions that they
//     returned, give exactly what they returned, each write once, and the order
//     agrees with real time. This is strict serializability, proved from the
//     revisions that the store itself names.
//   - CheckLinearizable: the same of single keys and small groups of keys by
//     porcupine, which trusts no revision for its order.
//   - CheckWatch: each event once, in order, without gaps, with the right
//     previous value.
//   - CheckSamples: one cluster id, one master a term.
//   - CheckCopies: all pods hold the same.
//
// # Invariants
//
// The values that ops write must be unique in a recording: an op is found in the
// log by the values that it wrote. An outcome that is unknown stays open: the
// write may appear in the log once at any time after its call, or never.
//
// What could not be checked is a Violation too: silence means checked.
package history
