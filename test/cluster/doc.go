// Package cluster starts kvd, and whatever is compared with it, as processes on
// loopback. It is the only launcher of the tests that need processes and of the
// benchmark; they add what is theirs alone: a network that breaks, names and
// addresses as in Kubernetes, the API of etcd.
//
// Its nouns: a Pod is one server, started again and again on its volume; a
// Cluster is the pods that know each other. Nothing that is started outlives the
// program that started it, however that program ends.
package cluster
