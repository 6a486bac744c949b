// Package etcd tests Baton's etcd v3 API with etcd's own programs: the real
// server, which every answer is compared with, the real client, and etcdctl.
// It is a module of its own, so that Baton does not depend on them.
package etcd
