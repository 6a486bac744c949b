package member

import (
	"cmp"
	"strconv"
	"strings"
)

// ID names one incarnation of a pod's disk: "<pod>/<uuid>". It is also the
// member's address in Raft's configuration: the library refuses two servers of one
// address, and a pod's new incarnation stands beside the old one for a while.
type ID string

// Pod is the part before the slash.
func (id ID) Pod() string {
	pod, _, _ := strings.Cut(string(id), "/")
	return pod
}

// Valid says whether the ID has both parts.
func (id ID) Valid() bool {
	pod, unique, ok := strings.Cut(string(id), "/")
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
