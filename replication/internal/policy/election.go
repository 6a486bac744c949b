package policy

import (
	"cmp"
	"slices"

	"github.com/batondb/baton/replication"
)

// BestVoter is the voter that the others will vote for: the one with the latest
// entry (Raft paper, 5.4.1), of those the lowest ordinal. It is known when all have
// told what they have; last is the end of this pod's own log.
func BestVoter(self replication.MemberID, last Entry, voters []replication.MemberID, seen Seen) (best replication.MemberID, complete bool) {
	var most Entry
	for _, id := range voters {
		var has Entry
		if id == self {
			has = last
		} else if p := seen[id.Pod()]; p != nil && p.Member == id {
			has = p.Last
		}
		if has.Index == 0 {
			return "", false
		}
		order := has.compare(most)
		if best == "" || order > 0 || order == 0 && replication.ByOrdinal(id.Pod(), best.Pod()) < 0 {
			best, most = id, has
		}
	}
	return best, best != ""
}

// Rank is how many living voters stand before this pod when the master has gone:
// the lowest ordinal stands at once, the next ones only if no new master came of
// it; together they would split the votes.
func Rank(self, gone replication.MemberID, voters []replication.MemberID) (rank int, votes bool) {
	voters = slices.Clone(voters)
	slices.SortFunc(voters, func(a, b replication.MemberID) int { return replication.ByOrdinal(a.Pod(), b.Pod()) })
	for _, id := range voters {
		switch id {
		case self:
			return rank, true
		case gone:
		default:
			rank++
		}
	}
	return 0, false
}

// SmallLag is how many entries a successor may be behind: it gets them in the time
// of a few messages, while the writes wait.
const SmallLag = 256

// Successor is a voter that may take the baton.
type Successor struct {
	ID       replication.MemberID
	Last     uint64 // the last index in its log
	Stopping bool   // it was told to end
	Unwanted bool   // its ordinal should not exist
}

// RankSuccessors orders those who may take the baton, the best first; last is the
// master's last index.
//
// A StatefulSet restarts its pods from the highest ordinal down. When the master is
// told to stop in such a roll-out, the pods above it have been restarted and stay;
// the one below it is restarted next. So the lowest one above is the successor: the
// baton changes hands once, and once in the next roll-out, too. When there is none
// above, every successor will be restarted, and the lowest ordinal is the last.
//
// Whoever is far behind comes after all that are not: the writes would wait.
func RankSuccessors(self replication.MemberID, last uint64, successors []Successor) []replication.MemberID {
	successors = slices.DeleteFunc(slices.Clone(successors), func(s Successor) bool { return s.Stopping || s.ID == self })
	ordinal := replication.Ordinal(self.Pod())
	rank := func(s Successor) int {
		late := s.Last+SmallLag < last
		switch {
		case s.Unwanted && late:
			return 5
		case s.Unwanted:
			return 4
		case late:
			return 3
		case replication.Ordinal(s.ID.Pod()) > ordinal:
			return 1
		}
		return 2
	}
	slices.SortFunc(successors, func(a, b Successor) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), replication.ByOrdinal(a.ID.Pod(), b.ID.Pod()))
	})
	var ids []replication.MemberID
	for _, s := range successors {
		ids = append(ids, s.ID)
	}
	return ids
}
