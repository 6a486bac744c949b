//go:build linux

// Command policies makes network policies count on one node of a test Kubernetes,
// whose network plugin does not look at them. It runs as root in the node's network,
// prints a line when it has begun, and takes its rules away when it is told to stop.
//
// Which connection is let in says the controller of sigs.k8s.io/kube-network-policies,
// as in kind's clusters. The rules that ask it are iptables', and not the controller's
// own, for which a kernel needs nftables' queue.
package main
