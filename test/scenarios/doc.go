// Package scenarios runs kvd as the pods of a StatefulSet, without Kubernetes:
// real processes that find each other by names, which a DNS server of the test's
// own resolves, and that ask a Kubernetes API of the test's own which of them
// should exist. What happens to them is what broke other databases; each
// scenario has an id, S01 to S42.
//
// Its nouns: a set is a StatefulSet with its pods; the nameServer is DNS; the
// api is what kvd asks of Kubernetes; the load is clients that write and read
// while something happens.
//
// The test program runs itself again in network and mount namespaces of its own,
// so that the ports of Kubernetes, /etc/resolv.conf and the service account's
// files are the test's. It needs Linux, and root or unprivileged user namespaces.
//
// The package also writes docs/scenarios.md: for each scenario the tests that
// hold it, found in the source of the whole module. A test belongs to a scenario
// by its name, TestS04Something, or by a line above it, "Scenario: S04, S05".
package scenarios
