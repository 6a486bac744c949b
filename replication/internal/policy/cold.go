package policy

import "github.com/batondb/baton/replication"

// Cold is what a pod knows that may be the first to start. Kubernetes, told to keep
// an order, creates a pod only once the one before it is ready; so a pod that can do
// nothing before the next one exists must be ready, or all wait for ever. A pod does
// not exist if its name does not: neither silence nor a failed look-up counts.
type Cold struct {
	Wanted Wanted
	// Candidates are the other pods that may exist.
	Candidates []string
	Seen       Seen
	Absent     map[string]bool
}

// OthersAbsent says, for a pod without data, that this is a cold start: each other
// pod that should exist does not yet, or says of itself that it waits for the next
// one to be created, or has no data either. (Two pods without data must not each
// wait until the other one says that it is a cold start.)
func (c Cold) OthersAbsent() bool {
	if c.Wanted == nil {
		return false
	}
	absent := 0
	for _, pod := range c.Candidates {
		switch p := c.Seen[pod]; {
		case !c.Wanted(replication.Ordinal(pod)) || p != nil && (p.Cold || !p.HasData):
		case p == nil && c.Absent[pod]:
			absent++
		default:
			return false
		}
	}
	return absent > 0
}

// Unseen are the pods for which it matters to OthersAbsent whether they exist.
func (c Cold) Unseen() []string {
	if c.Wanted == nil {
		return nil
	}
	var pods []string
	for _, pod := range c.Candidates {
		if c.Wanted(replication.Ordinal(pod)) && c.Seen[pod] == nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

// Quorum is what a pod with data and without a master knows of the others.
type Quorum struct {
	Self replication.MemberID
	Last Entry // the end of its log
	// Voters are those of the latest membership in its log.
	Voters []replication.MemberID
	Seen   Seen
	Absent map[string]bool
}

// Silent are the pods for which it matters to Missing whether they exist.
func (q Quorum) Silent() []string { return q.Seen.without(others(q.Self, q.Voters)) }

// Missing says that a majority of the voters cannot be running, and that one at
// least is yet to be created. A voter does not run either if its pod, this one or one
// that answers, has another disk, or a damaged one. Nor does one count that waits
// itself for a pod to be created, and has the later log: it votes for this pod never,
// and by its own, later, membership this pod's vote may not count.
func (q Quorum) Missing() bool {
	running, absent := 0, 0
	for _, id := range q.Voters {
		p := q.Seen[id.Pod()]
		switch {
		case id == q.Self:
			running++
		case p.is(id):
			if !p.Cold || p.Last.compare(q.Last) <= 0 {
				running++
			}
		case p != nil || id.Pod() == q.Self.Pod(): // another disk, or one that is damaged
		case q.Absent[id.Pod()]:
			absent++
		default:
			running++
		}
	}
	return absent > 0 && running <= len(q.Voters)/2
}
