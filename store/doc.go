// Package store is a multi-version key-value store that a replicated log
// drives, see replication.StateMachine. It knows no Raft, no gRPC and no clock.
//
// Its nouns:
//
//   - A command is one request out of the log. Apply runs commands one after
//     the other; what they answer is the same on every replica.
//   - A revision counts the transactions that changed something. Every version
//     of a key is named by the revision that wrote it.
//   - A table is a sorted table in memory that takes the newest versions. When
//     it is full it is frozen, and the flusher moves it into bbolt in small
//     paced steps, while a second table fills.
//   - A view is what a read sees: the tables and one bbolt transaction, at one
//     revision. Taking one blocks nobody.
//
// # Invariants
//
// The log is the write-ahead log: what is only in tables is replayed from it
// after a crash. The last step of a flush writes the applied index together
// with all that is not versioned. The steps before it write versions above the
// revision that the file claims; readers do not see them, and the replay writes
// the very same ones again. So the file is right after every step.
//
// Memory and start-up do not grow with the number of keys: nothing but tables,
// leases and watchers is held in memory.
//
// # On disk
//
// One bbolt file with six buckets:
//
//	keys        key              -> where its newest version is, and all of it but the value
//	log         revision, part   -> one version: key, value, the place of the version before; running hash
//	leases      lease            -> time to live
//	lease_keys  lease, key       -> nothing
//	requests    client, sequence -> result; and number -> client, sequence
//	meta        state            -> position in the log, revision, ...
//
// Every record carries a CRC-32C over its key and value.
//
// A Round reads all of it in the background, and a Part is what two pods compare of what
// they read.
//
// # Caveats
//
// A failure of the disk is final: it appears once on Failed, and the process
// must end. The store never serves what it could not write.
package store
