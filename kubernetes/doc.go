// Package kubernetes is the little that a pod asks of the Kubernetes API: which
// ordinals its StatefulSet wants, who may found the cluster, which place its
// volume is in; and the one thing it says, its role, as a label.
//
// # Nouns
//
// A Pod is this process as Kubernetes knows it. Ordinals are what the
// StatefulSet's spec says should exist. The Record is a ConfigMap,
// <statefulset>-cluster, that says which cluster the StatefulSet runs: whoever
// fills it may found that cluster, and nobody else. The manifest makes it empty,
// so that pods need not create ConfigMaps; a missing one is like an empty one, and
// a pod makes it where its Role permits that. The place is the
// namespace, by its uid: a volume that was copied into another namespace, or
// into another Kubernetes cluster, is not where it was.
//
// # Invariants
//
//   - Nothing here is needed by a cluster that runs, or by a pod that has data:
//     each call has a bound, and an answer that does not come decides nothing.
//   - What should exist is known only for a short time after it was read. A
//     StatefulSet that is gone, that is being deleted, or that has no replicas
//     is a stop: then nothing is known, and nobody leaves.
//   - The record is only ever written where there is none, never overwritten, but
//     from the cluster that a pod has data of to the one that goes on from it, when
//     a person told the pod to recover or to adopt; and back, by pods that have a
//     quorum of the former. Each write fails if the ConfigMap was touched since it
//     was read.
//
// # Caveats
//
// The API is used through the dynamic client: the typed one, with the types of
// every API, would more than double the size of the server.
package kubernetes
