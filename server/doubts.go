package server

import (
	"slices"
	"sync/atomic"
)

// doubts are about this pod's own data, while it is not known which of two pods
// that differ is wrong: nothing is read meanwhile.
type doubts struct {
	// diverged says why this pod must no longer serve its data, which differs or is
	// damaged; nil: it may.
	diverged atomic.Pointer[string]
	// why nothing is read; nil: there is no doubt.
	why atomic.Pointer[doubt]
	// cleared are the pods that differ and of which the last comparison said that
	// this pod goes on all the same.
	cleared atomic.Pointer[[]string]
	// differs says whether this pod's data differs from some other pod's.
	differs atomic.Bool
	// wake has an element when a comparison is due at once.
	wake chan struct{}
	// parts are about what was read back from the disk.
	parts partDoubts
}

// doubt is that this pod differs from another one, or, without a pod, from most.
type doubt struct{ pod, why string }

func newDoubts() doubts {
	return doubts{wake: make(chan struct{}, 1), parts: newPartDoubts()}
}

// raise says whether this pod serves although it differs from pod. The newest
// doubt counts: a comparison that is under way may have begun before it.
func (d *doubts) raise(pod, why string) (serve bool) {
	if slices.Contains(d.known(), pod) {
		return true
	}
	if d.why.Swap(&doubt{pod, why}) == nil {
		d.again() // Only for the first: two pods that doubt must not keep each other busy.
	}
	return false
}

// again has the next comparison begin at once.
func (d *doubts) again() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// known are the pods that are cleared.
func (d *doubts) known() []string {
	if cleared := d.cleared.Load(); cleared != nil {
		return *cleared
	}
	return nil
}

// settle takes the outcome of a comparison that began with the doubt before. What a
// pod that it clears has said meanwhile is no new doubt: it asks as often as it is
// in doubt itself.
func (d *doubts) settle(before *doubt, cleared []string) {
	if before != nil && before.pod != "" && !slices.Contains(cleared, before.pod) {
		cleared = append(slices.Clone(cleared), before.pod)
	}
	d.cleared.Store(&cleared)
	if now := d.why.Load(); now == before || now != nil && slices.Contains(cleared, now.pod) {
		d.why.CompareAndSwap(now, nil)
	}
}
