// Package e2e tests Baton on a real Kubernetes, as a person would run it: with
// kubectl and the manifest of deploy/.
//
// Its nouns:
//
//   - A Cluster is one installation in a namespace of its own, under load from
//     its first ready pod to its end, and checked when the test ends: no
//     acknowledged write lost, no revision gone back, one cluster id, the same
//     data on every pod.
//   - The load is twelve writers and three readers, each with a Go client of its
//     own; some know the Service kv-client, the others one pod's name.
//   - A Measurement is what the load saw while something happened: the longest
//     gaps, the calls that failed, the changes of master. All of them are
//     printed in a table at the end, each beside what it should be.
//   - The lab is what a test does to the machines and not through the API: kill
//     a process, cut DNS, stop a node. It needs a Kubernetes on this machine.
//
// # Running
//
// The tests are behind the build tag e2e: "make e2e" runs them on whatever
// KUBECONFIG points at, "make e2e-local" on a test Kubernetes that it starts.
// They must run where the addresses of pods and Services can be reached.
package e2e
