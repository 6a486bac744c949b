package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/policy"
	"github.com/batondb/baton/replication/internal/raftio"
)

// Status may be called at any time.
func (n *Node) Status() replication.Status {
	e := n.engine.Load()
	if e == nil {
		return n.arrivingStatus()
	}
	v := e.replica.Views.Load()
	s := replication.Status{
		Master: v.Master.Pod(),
		Term:   e.replica.Raft.CurrentTerm(), Last: e.replica.Raft.LastIndex(),
		Commit: e.replica.Raft.CommitIndex(), Applied: e.replica.Applied.Value.Load(),
		LogBytes: e.replica.Storage.Log.Bytes(),
		Queued:   e.router.Queued(),
	}
	me, member := members(e.replica.Membership.Load().Configuration).Find(e.self)
	switch {
	case !member:
	case v.Ready:
		// Of the term that it leads, whatever Raft's own is by now: two pods must never
		// say that they are the master of one term.
		s.Role, s.Term = replication.RoleMaster, v.Term
	case me.Voter:
		s.Role = replication.RoleFollower
	default:
		s.Role = replication.RoleLearner
	}
	if at := e.replica.Raft.LastContact(); !v.Leads && !at.IsZero() {
		s.LastContact = time.Since(at)
	}
	s.Because = n.notReady(e, v, s)
	s.Ready = s.Because == ""
	s.Cold = s.Ready && (v.Master == "" || n.condemned() != "")
	return s
}

func (n *Node) arrivingStatus() replication.Status {
	because, clone := n.progress.Get()
	s := replication.Status{Because: because, Clone: clone}
	switch {
	case n.fate.stopping.Load():
		s.Because = "it stops"
	case n.progress.IsCold() || n.condemned() != "" && n.AwaitsNext():
		s.Because, s.Cold = "", true // the next pod, which may have the data, is only created once this one is ready
	case clone != nil:
		s.Because = fmt.Sprintf("it clones from %s: %d of %d bytes", clone.Source, clone.Bytes, clone.Total)
	case because == "":
		s.Because = "it starts"
	}
	s.Ready = s.Because == ""
	return s
}

func (n *Node) notReady(e *engine, v *raftio.View, s replication.Status) string {
	r := policy.Readiness{
		Stopped: e.replica.Views.IsClosed(), Retired: n.volume.Identity().Retired, Condemned: n.condemned(),
		Master: v.Master.Pod(), Cold: e.cold.Load(), Role: roles[s.Role], Leads: v.Leads, Ready: v.Ready,
		Caught: e.caught.Load(), Applied: s.Applied, Committed: s.Commit,
	}
	if unknown := e.replica.Transport.Unknown(); unknown != nil {
		r.Waits = "it does not take what the master writes, until its version is the master's: " + unknown.Error()
	}
	if r.Condemned != "" {
		r.AwaitsNext = n.AwaitsNext()
		r.Waits, _ = n.progress.Get()
	}
	return r.NotReady()
}

// roles are what matters of a role to readiness.
var roles = map[replication.Role]string{replication.RoleMaster: policy.Voter, replication.RoleFollower: policy.Voter, replication.RoleLearner: policy.Learner}

// Members are the members of the committed membership, by ordinal.
func (n *Node) Members() []replication.Member {
	e := n.engine.Load()
	if e == nil {
		return nil
	}
	var all []replication.Member
	for _, of := range members(e.replica.Membership.Load().Configuration) {
		m := replication.Member{ID: of.ID, Pod: of.ID.Pod(), Ordinal: replication.Ordinal(of.ID.Pod()), Voter: of.Voter}
		if addr, err := n.opts.Resolver(m.Pod); err == nil {
			m.Address = addr
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b replication.Member) int { return replication.ByOrdinal(a.Pod, b.Pod) })
	return all
}

// Joining are the pods that should exist and are no members: those that clone,
// or wait to. Empty when it is not known which pods should exist.
func (n *Node) Joining() []string {
	pods := n.opts.Peers
	if n.opts.ExpectedOrdinals != nil {
		wanted := n.wanted()
		if wanted == nil {
			return nil
		}
		pods = slices.DeleteFunc(n.candidatePods(), func(pod string) bool { return wanted.Excludes(replication.Ordinal(pod)) })
	}
	var joining []string
	members := n.Members()
	for _, pod := range pods {
		if pod != n.opts.Name && !slices.ContainsFunc(members, func(m replication.Member) bool { return m.Pod == pod }) {
			joining = append(joining, pod)
		}
	}
	return joining
}

var wireRoles = map[replication.Role]kvv1.PodStatus_Role{
	replication.RoleMaster:   kvv1.PodStatus_ROLE_MASTER,
	replication.RoleFollower: kvv1.PodStatus_ROLE_FOLLOWER,
	replication.RoleLearner:  kvv1.PodStatus_ROLE_LEARNER,
}

// PodStatus is what the pods tell each other, completed by Options.PodStatus.
func (n *Node) PodStatus(context.Context) *kvv1.PodStatus {
	s := n.Status()
	p := &kvv1.PodStatus{
		Name: n.opts.Name, Ordinal: int32(replication.Ordinal(n.opts.Name)), MemberId: string(n.MemberID()),
		Role: wireRoles[s.Role], Ready: s.Ready, NotReadyBecause: s.Because,
		Term: s.Term, AppliedIndex: s.Applied,
	}
	if addr, err := n.opts.Resolver(n.opts.Name); err == nil {
		p.PeerAddress = addr
	}
	if s.Clone != nil {
		p.Role = kvv1.PodStatus_ROLE_LEARNER
		p.Clone = &kvv1.CloneProgress{
			Source: s.Clone.Source, Bytes: s.Clone.Bytes, TotalBytes: s.Clone.Total, BytesPerSecond: s.Clone.BytesPerSecond,
		}
	}
	if n.opts.PodStatus != nil {
		n.opts.PodStatus(p)
	}
	return p
}
