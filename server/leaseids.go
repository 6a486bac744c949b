package server

import (
	"sync/atomic"
	"time"
)

const (
	// leasePodBits tell the pods apart: of all pods that run at one time, only
	// ordinals that are 1,024 apart have the same.
	leasePodBits = 10
	// leaseCountBits count within a millisecond. What does not fit moves on into
	// the milliseconds to come.
	leaseCountBits = 11
)

// leaseIDs chooses the ids of leases whose clients did not: 42 bits of the time in
// milliseconds, a count, and the pod. So leases that are listed by their ids are in
// the order of their grants, as etcd lists them, within a pod always, and between
// pods as well as their clocks agree. The id is chosen before the command is
// proposed, so that it means the same on every pod. An id that there is already, as
// after the clock was set back, is refused like any other.
type leaseIDs struct {
	pod  int64
	last atomic.Int64 // Time and count.
}

func newLeaseIDs(ordinal int) *leaseIDs {
	return &leaseIDs{pod: int64(ordinal) & (1<<leasePodBits - 1)}
}

// next returns a positive id that is larger than those before.
func (l *leaseIDs) next() int64 {
	now := time.Now().UnixMilli() & (1<<42 - 1) << leaseCountBits
	for {
		last := l.last.Load()
		if chosen := max(now, last+1); l.last.CompareAndSwap(last, chosen) {
			return chosen<<leasePodBits | l.pod
		}
	}
}
