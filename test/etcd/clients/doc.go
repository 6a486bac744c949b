// Package clients runs what etcd's Go client has against Baton: sessions, locks,
// elections, transactional memory, leasing, namespaces, mirrors, snapshots and
// watches, while the master is killed under them.
package clients
