package replication

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/google/uuid"
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

// Valid says whether it is a pod's name and a uuid as a pod writes it. Both become
// parts of paths: nothing else may come from a disk or from another pod.
func (m MemberID) Valid() bool {
	pod, unique, _ := strings.Cut(string(m), "/")
	id, err := uuid.Parse(unique)
	return err == nil && id.String() == unique && ValidPod(pod)
}

// maxLabel is the length of a DNS label, in bytes.
const maxLabel = 63

// ValidPod says whether a pod of a StatefulSet can have this name: a DNS label,
// <statefulset>-<ordinal>.
func ValidPod(pod string) bool {
	strange := func(r rune) bool { return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') }
	return len(pod) <= maxLabel && !strings.ContainsFunc(pod, strange) &&
		strings.LastIndexByte(pod, '-') > 0 && pod[0] != '-' && Ordinal(pod) >= 0
}

// Ordinal is the number at the end of a pod's name, kv-10's is 10; -1: none.
func Ordinal(pod string) int {
	n, err := strconv.Atoi(pod[strings.LastIndexByte(pod, '-')+1:])
	if err != nil {
		return -1
	}
	return n
}

// SetOf is the StatefulSet of a pod, by its name; empty: it is no pod's name.
func SetOf(pod string) string { return pod[:max(0, strings.LastIndexByte(pod, '-'))] }

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
