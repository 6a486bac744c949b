package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/batondb/baton/replication"
)

// Fate is what is known otherwise, from Kubernetes, of a pod that does not answer.
type Fate struct {
	// Gone: it has lost its data.
	Gone bool
	// Doubt says why it may not be lost, whatever a person says; empty: nothing.
	Doubt string
}

// Recovery is what is known when a person wants this pod's data to become the
// beginning of a new history.
type Recovery struct {
	Self replication.MemberID
	// Cluster is the one that this pod has data of; empty: it has none.
	Cluster string
	// Master is the pod that this one takes for the master.
	Master string
	// Runs says whether this pod's log runs, Term its term, and Last where it ends.
	Runs bool
	Term uint64
	Last Entry
	// Voters are those of the newest membership in this pod's log.
	Voters []replication.MemberID
	Seen   Seen
	// Lost are the pods whose data a person says is lost for good.
	Lost []string
	// Fate has those that do not answer, as far as something is known.
	Fate map[string]Fate
}

// SpentTerm is a term after which there is no further one: a voter whose term it is
// votes for nobody. No elections lead there, and no pod believes a message that says
// so; a volume may have one from a version that did.
const SpentTerm = 1 << 62

// Silent are the pods whose Fate matters.
func (r Recovery) Silent() []string { return r.Seen.without(r.others()) }

func (r Recovery) others() []replication.MemberID { return others(r.Self, r.Voters) }

// Refusal says why this pod's data must not become the beginning of a new history:
// another pod is the master, or the pods that answer can choose one, or one of them
// has more, or it is not known that what does not answer is lost. It is empty when
// what this pod has is the best there is.
func (r Recovery) Refusal() string {
	switch {
	case r.Cluster == "":
		return "this pod has no data; run it where there is some"
	case r.Master != "":
		return r.Master + " is the master"
	}
	for _, pod := range r.Seen.pods() {
		switch p := r.Seen[pod]; {
		case !p.HasData || p.Cluster != r.Cluster || p.useless():
		case p.Master:
			return pod + " is the master"
		case !r.Runs:
			return pod + " has data and answers: start this pod too, and if they cannot choose a master, run it again then"
		case p.Last.compare(r.Last) > 0:
			return fmt.Sprintf("%s has more than this pod (last_log_term %d, last_index %d): run it there", pod, p.Last.Term, p.Last.Index)
		}
	}
	answer := 0
	for _, id := range r.Voters {
		switch p := r.Seen[id.Pod()]; {
		case id == r.Self && r.Term < SpentTerm, p.is(id) && p.Term < SpentTerm:
			answer++
		}
	}
	if n := len(r.Voters); answer > n/2 && n > 1 {
		return fmt.Sprintf("%d of %d voters answer, which is a quorum: they choose a master", answer, n)
	}
	return r.unaccounted()
}

// unaccounted looks for each other voter whether it is known to be lost. Silence is
// no loss: the pod that asks may be the one that is cut off.
func (r Recovery) unaccounted() string {
	var others, missing []string
	for _, id := range r.others() {
		pod := id.Pod()
		others = append(others, pod)
		named, p := slices.Contains(r.Lost, pod), r.Seen[pod]
		if p.is(id) {
			if named {
				return pod + " is named as lost, and answers with its data"
			}
			continue
		}
		fate := Fate{}
		if p == nil {
			fate = r.Fate[pod]
		}
		if fate.Doubt != "" {
			return fate.Doubt
		}
		if !named && !fate.Gone {
			missing = append(missing, pod)
		}
	}
	for _, pod := range r.Lost {
		if !slices.Contains(others, pod) {
			return fmt.Sprintf("%s is named as lost; the voters beside this pod are %s", pod, strings.Join(others, ", "))
		}
	}
	if len(missing) > 0 {
		return fmt.Sprintf("%s may have acknowledged writes that this pod does not have, and a pod that does not answer may only be out of reach. "+
			"Look for each whether its volume is lost for good; then name it: --lost %s", strings.Join(missing, " and "), strings.Join(missing, ","))
	}
	return ""
}
