// Package datastore tests Kubernetes on Baton: a real Kubernetes whose API
// server keeps all of its state in three pods of kvd, through the etcd v3 API,
// instead of in etcd. Everything below the API server, and every kubectl, then
// works or fails with Baton.
//
// It needs the scripts of a local test Kubernetes, and must run inside its
// network: "make kubernetes-on-baton" does both, and prints what it showed.
package datastore
