package replication

import (
	"github.com/hashicorp/raft"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/internal/member"
	"github.com/batondb/baton/replication/internal/policy"
)

// MemberID names one incarnation of a pod's disk: "<pod>/<uuid>". Its Pod is the
// part before the slash.
type MemberID = member.ID

// Ordinal is the number at the end of a pod's name, kv-10's is 10; -1: none.
func Ordinal(pod string) int { return member.Ordinal(pod) }

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

// members are a configuration as decisions are made about it.
func members(c raft.Configuration) policy.Members {
	all := make(policy.Members, 0, len(c.Servers))
	for _, s := range c.Servers {
		all = append(all, policy.Member{ID: MemberID(s.ID), Voter: s.Suffrage == raft.Voter})
	}
	return all
}

// seenAs are the answers of pods as decisions are made about them.
func seenAs(answers map[string]*peerv1.InspectResponse) policy.Seen {
	seen := policy.Seen{}
	for pod, s := range answers {
		seen[pod] = &policy.Peer{
			Member: MemberID(s.MemberId), Cluster: s.ClusterId, Replaces: s.ReplacesClusterId,
			Empty: s.Empty, HasData: s.HasData, Cold: s.Cold, Condemned: s.Condemned, Master: s.Master, Cloneable: s.Cloneable,
			Term: s.Term, Last: policy.Entry{Index: s.LastIndex, Term: s.LastLogTerm},
		}
	}
	return seen
}
