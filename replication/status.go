package replication

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication/internal/member"
	"github.com/batondb/baton/replication/internal/policy"
)

// Role of a pod.
type Role string

const (
	// RoleNone: not a member yet, or not started.
	RoleNone Role = ""
	// RoleMaster leads and is ready to.
	RoleMaster Role = "master"
	// RoleFollower votes and does not lead.
	RoleFollower Role = "follower"
	// RoleLearner does not vote yet.
	RoleLearner Role = "learner"
)

// Status of this pod's part in the cluster.
type Status struct {
	Role Role
	// Master is the pod that is the master; empty: none is known.
	Master string
	// Term, and the last log index in the log, committed and applied.
	Term, Last, Commit, Applied uint64
	// LastContact is the time since the master was heard; zero on the master,
	// and before the first contact.
	LastContact time.Duration
	LogBytes    int64
	// Queued commands wait to be proposed or forwarded.
	Queued int
	Ready  bool
	// Because says why the pod is not ready.
	Because string
	// Cold: it is ready only so that the next pod is created, see readiness.
	Cold bool
	// Clone is there while a database is received.
	Clone *CloneProgress
}

// Status may be called at any time.
func (n *Node) Status() Status {
	e := n.engine.Load()
	if e == nil {
		return n.arrivingStatus()
	}
	v := e.replica.views.load()
	s := Status{
		Master: v.master.Pod(),
		Term:   e.replica.raft.CurrentTerm(), Last: e.replica.raft.LastIndex(),
		Commit: e.replica.raft.CommitIndex(), Applied: e.replica.applied.value.Load(),
		LogBytes: e.replica.storage.log.Bytes(),
		Queued:   e.router.queued(),
	}
	me, member := server(e.replica.membership.now.Load().Configuration, e.self)
	switch {
	case !member:
	case v.ready:
		s.Role = RoleMaster
	case me.Suffrage == raft.Voter:
		s.Role = RoleFollower
	default:
		s.Role = RoleLearner
	}
	if at := e.replica.raft.LastContact(); !v.leads && !at.IsZero() {
		s.LastContact = time.Since(at)
	}
	s.Because = n.notReady(e, v, s)
	s.Ready = s.Because == ""
	s.Cold = s.Ready && (v.master == "" || n.condemned() != "")
	return s
}

func (n *Node) arrivingStatus() Status {
	because, clone := n.progress.get()
	s := Status{Because: because, Clone: clone}
	switch {
	case n.stopping.Load():
		s.Because = "it stops"
	case n.progress.isCold() || n.condemned() != "" && n.AwaitsNext():
		s.Because, s.Cold = "", true // the next pod, which may have the data, is only created once this one is ready
	case clone != nil:
		s.Because = fmt.Sprintf("it clones from %s: %d of %d bytes", clone.Source, clone.Bytes, clone.Total)
	case because == "":
		s.Because = "it starts"
	}
	s.Ready = s.Because == ""
	return s
}

func (n *Node) notReady(e *engine, v *view, s Status) string {
	r := policy.Readiness{
		Stopped: e.replica.views.isClosed(), Retired: n.volume.Identity().Retired, Condemned: n.condemned(),
		Master: v.master.Pod(), Cold: e.cold.Load(), Role: roles[s.Role], Leads: v.leads, Ready: v.ready,
		Caught: e.caught.Load(), Applied: s.Applied, Committed: s.Commit,
	}
	if r.Condemned != "" {
		r.AwaitsNext = n.AwaitsNext()
		r.Waits, _ = n.progress.get()
	}
	return r.NotReady()
}

// roles are what matters of a role to readiness.
var roles = map[Role]string{RoleMaster: policy.Voter, RoleFollower: policy.Voter, RoleLearner: policy.Learner}

// Members are the members of the committed membership, by ordinal.
func (n *Node) Members() []Member {
	e := n.engine.Load()
	if e == nil {
		return nil
	}
	var members []Member
	for _, s := range e.replica.membership.now.Load().Servers {
		id := MemberID(s.ID)
		m := Member{ID: id, Pod: id.Pod(), Ordinal: Ordinal(id.Pod()), Voter: s.Suffrage == raft.Voter}
		if addr, err := n.opts.Resolver(m.Pod); err == nil {
			m.Address = addr
		}
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b Member) int { return member.ByOrdinal(a.Pod, b.Pod) })
	return members
}

// Joining are the pods that should exist and are no members: those that clone,
// or wait to. Empty when it is not known which pods should exist.
func (n *Node) Joining() []string {
	pods := n.opts.Peers
	if n.opts.ExpectedOrdinals != nil {
		covers, known := n.opts.ExpectedOrdinals()
		if !known {
			return nil
		}
		pods = slices.DeleteFunc(n.candidatePods(), func(pod string) bool { return !covers(Ordinal(pod)) })
	}
	var joining []string
	members := n.Members()
	for _, pod := range pods {
		if pod != n.opts.Name && !slices.ContainsFunc(members, func(m Member) bool { return m.Pod == pod }) {
			joining = append(joining, pod)
		}
	}
	return joining
}

var wireRoles = map[Role]kvv1.PodStatus_Role{
	RoleMaster:   kvv1.PodStatus_ROLE_MASTER,
	RoleFollower: kvv1.PodStatus_ROLE_FOLLOWER,
	RoleLearner:  kvv1.PodStatus_ROLE_LEARNER,
}

// PodStatus is what the pods tell each other, completed by Options.PodStatus.
func (n *Node) PodStatus(context.Context) *kvv1.PodStatus {
	s := n.Status()
	p := &kvv1.PodStatus{
		Name: n.opts.Name, Ordinal: int32(Ordinal(n.opts.Name)), MemberId: string(n.MemberID()),
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
