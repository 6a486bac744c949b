package replication

import (
	"cmp"
	"strconv"
	"strings"
)

// MemberID names one incarnation of a pod's disk: "<pod>/<uuid>". It is also
// the member's address in Raft's configuration: the library refuses two servers
// of one address, and a pod's new incarnation stands beside the old one for a
// while.
type MemberID string

// Pod is the part before the slash.
func (m MemberID) Pod() string {
	pod, _, _ := strings.Cut(string(m), "/")
	return pod
}

// Valid says whether both parts are there.
func (m MemberID) Valid() bool {
	pod, unique, ok := strings.Cut(string(m), "/")
	return ok && pod != "" && unique != ""
}

// Ordinal is the number at the end of a pod's name, kv-10's is 10; -1: none.
func Ordinal(pod string) int {
	n, err := strconv.Atoi(pod[strings.LastIndexByte(pod, '-')+1:])
	if err != nil {
		return -1
	}
	return n
}

// ByOrdinal compares pods as numbers: kv-10 comes after kv-9.
func ByOrdinal(a, b string) int {
	return cmp.Or(cmp.Compare(Ordinal(a), Ordinal(b)), strings.Compare(a, b))
}

// Member is an entry of the membership.
type Member struct {
	ID      MemberID
	Pod     string
	Ordinal int
	// Address is where the pod's peer port is now; empty when its name does
	// not resolve.
	Address string
	Voter   bool
}
