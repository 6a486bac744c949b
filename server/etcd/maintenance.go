package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// maintenanceService answers etcdserverpb.Maintenance.
type maintenanceService struct {
	pb.UnsafeMaintenanceServer
	pod *pod
}

// ours are errors where etcd has none that says what to do.
func ours(code codes.Code, text string) error { return status.Error(code, "etcdserver: "+text) }

var errDowngrade = ours(codes.FailedPrecondition,
	"Baton has no downgrade mode: roll the StatefulSet back to the earlier image")

// local is this pod's copy of the data, as fresh as it is.
func (p *pod) local(ctx context.Context) (*store.Store, error) {
	st, err := p.Read(ctx, local)
	return st, p.fail(ctx, err)
}

// Status names etcd's version, of which this is the API: clients look at it to
// tell what a server can do.
func (s *maintenanceService) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	st, err := s.pod.local(ctx)
	if err != nil {
		return nil, err
	}
	log, err := s.pod.Log()
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	raft, disk := log.Status(), st.Status()
	response := &pb.StatusResponse{
		Header:  s.pod.header(disk.Revision),
		Version: version.Version, StorageVersion: storageVersion(),
		Leader: leader(log), IsLearner: raft.Role == replication.RoleLearner,
		RaftTerm: raft.Term, RaftIndex: raft.Commit, RaftAppliedIndex: raft.Applied,
		DbSize: disk.FileBytes, DbSizeInUse: disk.FileBytes - disk.FreeBytes,
		DbSizeQuota:   s.quota(disk.FileBytes),
		DowngradeInfo: &pb.DowngradeInfo{},
	}
	if response.GetLeader() == 0 {
		response.Errors = append(response.Errors, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
	}
	if raft.Because != "" {
		response.Errors = append(response.Errors, "etcdserver: not ready: "+raft.Because)
	}
	alarms, err := s.alarms(ctx)
	for _, a := range alarms {
		response.Errors = append(response.Errors, a.String())
	}
	return response, s.pod.fail(ctx, err)
}

// storageVersion is etcd's minor version with a patch of 0, as it writes it.
func storageVersion() string { return version.Cluster(version.Version) + ".0" }

// quota is what the database can grow to on this pod's volume.
func (s *maintenanceService) quota(fileBytes int64) int64 {
	space, err := s.pod.Space()
	if err != nil {
		return fileBytes
	}
	return fileBytes + int64(space.Usable())
}

// Defragment has nothing to do: the pages that compaction frees are used again,
// and the file does not grow while there are some.
func (s *maintenanceService) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	st, err := s.pod.local(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.DefragmentResponse{Header: s.pod.header(st.Revision())}, nil
}

func (s *maintenanceService) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	revision, hash, _, err := s.hash(ctx, hashOfAll)
	if err != nil {
		return nil, err
	}
	return &pb.HashResponse{Header: s.pod.header(revision), Hash: hash}, nil
}

func (s *maintenanceService) HashKV(ctx context.Context, req *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	revision, hash, st, err := s.hash(ctx, req.GetRevision())
	if err != nil {
		return nil, err
	}
	now := st.Status()
	compacted := now.Compacted
	if compacted == 0 {
		compacted = -1 // As etcd says it before the first compaction.
	}
	return &pb.HashKVResponse{
		Header: s.pod.header(now.Revision), Hash: hash, HashRevision: revision, CompactRevision: compacted,
	}, nil
}

const (
	// hashOfAll asks for the hash of all that there is.
	hashOfAll = 0
	// hashOfNothing is what etcd answers before the first write: the CRC-32C of
	// "key". Clients take 0 for no answer.
	hashOfNothing = 0x40a4756d
)

// hash is Baton's own running hash, folded to the width of etcd's: another
// number than etcd's for the same keys, and the same on every pod. There is
// nothing at a negative revision, which etcd does not refuse.
func (s *maintenanceService) hash(ctx context.Context, at int64) (revision int64, hash uint32, st *store.Store, err error) {
	if st, err = s.pod.local(ctx); err != nil {
		return 0, 0, nil, err
	}
	if at < 0 {
		return at, hashOfNothing, st, nil
	}
	revision, wide, err := st.Hash(at)
	return revision, hashOfNothing ^ uint32(wide>>32) ^ uint32(wide), st, s.pod.fail(ctx, err)
}

// MoveLeader works on the master only, as etcd's: clients look for it first.
func (s *maintenanceService) MoveLeader(ctx context.Context, req *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	log, err := s.pod.Log()
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	if !log.IsMaster() {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	successor := ""
	for _, m := range log.Members() {
		if m.Voter && number(string(m.ID)) == req.GetTargetID() {
			successor = m.Pod
		}
	}
	switch successor {
	case "":
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	case s.pod.Pod():
		return &pb.MoveLeaderResponse{}, nil
	}
	if err := s.pod.MayOrder(ctx); err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	master, err := log.HandOver(ctx, successor)
	if err == nil && master != successor {
		err = ours(codes.Unknown, master+" became the leader instead: try again")
	}
	if err != nil {
		return nil, s.pod.fail(ctx, err)
	}
	return &pb.MoveLeaderResponse{}, nil
}

// Downgrade refuses everything except the end of a downgrade, which etcd grants even
// if there was none.
func (s *maintenanceService) Downgrade(ctx context.Context, req *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if req.GetAction() != pb.DowngradeRequest_CANCEL {
		return nil, errDowngrade
	}
	st, err := s.pod.local(ctx)
	if err != nil {
		return nil, err
	}
	return &pb.DowngradeResponse{Header: s.pod.header(st.Revision()), Version: version.Cluster(version.Version)}, nil
}
