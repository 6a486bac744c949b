package replication

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/raft"
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

func (m MemberID) valid() bool {
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

// byOrdinal sorts pods as numbers: kv-10 after kv-9.
func byOrdinal(a, b string) int {
	return cmp.Or(cmp.Compare(Ordinal(a), Ordinal(b)), strings.Compare(a, b))
}

// lowest is the pod of the lowest ordinal.
func lowest(pods []string) string {
	return slices.MinFunc(pods, byOrdinal)
}

// server finds a member in a configuration.
func server(c raft.Configuration, id MemberID) (raft.Server, bool) {
	for _, s := range c.Servers {
		if s.ID == raft.ServerID(id) {
			return s, true
		}
	}
	return raft.Server{}, false
}

func voters(c raft.Configuration) []MemberID {
	var ids []MemberID
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, MemberID(s.ID))
		}
	}
	return ids
}
