package server

import (
	"cmp"
	"context"
	"slices"
	"strings"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/replication"
)

// What PodStatus.alarms says. The first word is for programs.
const (
	alarmNoSpace  = "NO_SPACE: the volume is nearly full; writes are refused until space is freed"
	alarmDiverged = "DATA_DIFFERS: this pod's data differs from the other pods' at the same revision"
)

// clusterService answers baton.kv.v1.ClusterService.
type clusterService struct {
	kvv1.UnsafeClusterServiceServer
	core      *core
	readiness *readiness
}

// Status works on a pod in any state: it is what a person asks when something
// is wrong. Pods that clone, or wait to, are in it before they are members.
func (s *clusterService) Status(ctx context.Context, req *kvv1.StatusRequest) (*kvv1.StatusResponse, error) {
	response := &kvv1.StatusResponse{Pods: []*kvv1.PodStatus{s.ownStatus(ctx)}}
	log, err := s.core.needLog()
	if err == nil {
		response.ClusterId = log.ClusterID()
	}
	if err != nil || req.GetThisPodOnly() {
		return response, nil //nolint:nilerr // Without a log there are no others to ask.
	}
	asked := s.core.others(log)
	for _, pod := range log.Joining() {
		asked = append(asked, replication.Member{Pod: pod, Ordinal: replication.Ordinal(pod)})
	}
	for _, a := range askAll(ctx, log, asked) {
		if a.member.ID != "" {
			response.Pods = append(response.Pods, describeMember(a))
		} else if a.err == nil { // A pod that is not there yet is nobody's business.
			response.Pods = append(response.Pods, a.status)
		}
	}
	slices.SortFunc(response.Pods, func(a, b *kvv1.PodStatus) int {
		return cmp.Or(cmp.Compare(a.GetOrdinal(), b.GetOrdinal()), strings.Compare(a.GetMemberId(), b.GetMemberId()))
	})
	fillLag(response.GetPods(), log.Status())
	return response, nil
}

// fillLag counts from the master's commit index: on the master it is known, and
// a follower's own is behind by at most what is on its way. A pod that did not
// answer is as far behind as the log is long, which says nothing: 0.
func fillLag(pods []*kvv1.PodStatus, status replication.Status) {
	commit := status.Commit
	for _, pod := range pods {
		if pod.GetRole() == kvv1.PodStatus_ROLE_MASTER {
			commit = max(commit, pod.GetAppliedIndex())
		}
	}
	for _, pod := range pods {
		pod.Lag = 0
		if applied := pod.GetAppliedIndex(); applied > 0 && applied < commit {
			pod.Lag = commit - applied
		}
	}
}

// describeMember is a member's own answer, or what is known without one. The
// answer is the pod's newest incarnation's; the entry of an older one says so.
func describeMember(a answer) *kvv1.PodStatus {
	if a.err == nil && a.status.GetMemberId() == string(a.member.ID) {
		return a.status
	}
	why := "was replaced by a newer incarnation of the pod"
	if a.err != nil {
		why = whyUnreachable(a.err)
	}
	role := kvv1.PodStatus_ROLE_UNSPECIFIED
	if !a.member.Voter {
		role = kvv1.PodStatus_ROLE_LEARNER
	}
	return &kvv1.PodStatus{
		Name:            a.member.Pod,
		Ordinal:         int32(a.member.Ordinal),
		MemberId:        string(a.member.ID),
		Role:            role,
		NotReadyBecause: why,
		PeerAddress:     a.member.Address,
	}
}

// ownStatus says how this pod is.
func (s *clusterService) ownStatus(ctx context.Context) *kvv1.PodStatus {
	if log, err := s.core.needLog(); err == nil {
		return log.PodStatus(ctx)
	}
	status := &kvv1.PodStatus{Name: s.core.options.Name, Ordinal: int32(replication.Ordinal(s.core.options.Name))}
	s.complete(status)
	return status
}

// complete adds what replication does not know; it is called by the log's
// PodStatus.
func (s *clusterService) complete(status *kvv1.PodStatus) {
	because := s.readiness.because()
	status.Ready = len(because) == 0
	status.NotReadyBecause = strings.Join(because, "; ")
	status.Version = s.core.options.Version
	status.ClientAddress = s.core.options.ClientAddress
	status.PeerAddress = s.core.options.PeerAddress
	status.AccessControl, status.Tenants = true, true
	if st := s.core.store.Load(); st != nil {
		now := st.Status()
		status.Revision = now.Revision
		status.DbSizeBytes = now.FileBytes
		status.OldestRevision = now.Compacted
		status.AppliedIndex = now.Applied
	}
	if s.core.space.low.Load() {
		status.Alarms = append(status.Alarms, alarmNoSpace)
	}
	if s.core.differs() {
		status.Alarms = append(status.Alarms, alarmDiverged)
	}
}
