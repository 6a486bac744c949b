package node

import (
	"github.com/hashicorp/raft"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/raftio"
)

// members are a configuration as decisions are made about it.
func members(c raft.Configuration) policy.Members {
	all := make(policy.Members, 0, len(c.Servers))
	for _, s := range c.Servers {
		all = append(all, policy.Member{ID: replication.MemberID(s.ID), Voter: s.Suffrage == raft.Voter})
	}
	return all
}

// seenAs are the answers of pods as decisions are made about them.
func seenAs(answers map[string]*peerv1.InspectResponse) policy.Seen {
	seen := policy.Seen{}
	for pod, s := range answers {
		seen[pod] = &policy.Peer{
			Member: replication.MemberID(s.MemberId), Cluster: s.ClusterId, Replaces: s.ReplacesClusterId,
			Empty: s.Empty, HasData: s.HasData, Cold: s.Cold, Condemned: s.Condemned, Master: s.Master, Cloneable: s.Cloneable,
			Term: s.Term, Last: policy.Entry{Index: s.LastIndex, Term: s.LastLogTerm},
		}
	}
	return seen
}

// lastEntry is the end of a replica's log.
func lastEntry(r *raftio.Replica) policy.Entry {
	index, term := r.Storage.LastEntry()
	return policy.Entry{Index: index, Term: term}
}
