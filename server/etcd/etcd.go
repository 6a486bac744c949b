package etcd

import (
	"hash/fnv"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"

	"github.com/batondb/baton/server"
)

// Register adds etcd's services to a server's client port.
func Register(registrar grpc.ServiceRegistrar, backend *server.Backend) {
	p := &pod{Backend: backend}
	registrar = newLeaderCheck(server.Refusing(registrar, p.fail), p)
	kv := &kvService{pod: p}
	pb.RegisterKVServer(registrar, kv)
	pb.RegisterMaintenanceServer(registrar, &maintenanceService{pod: p})
	pb.RegisterClusterServer(registrar, &clusterService{pod: p})
	pb.RegisterAuthServer(registrar, &authService{pod: p})
	pb.RegisterWatchServer(registrar, &watchService{pod: p})
	pb.RegisterLeaseServer(registrar, &leaseService{pod: p})
	v3lockpb.RegisterLockServer(registrar, &lockService{queue: &queue{pod: p, kv: kv}})
	v3electionpb.RegisterElectionServer(registrar, &electionService{queue: &queue{pod: p, kv: kv}})
}

// pod is what the services share.
type pod struct {
	*server.Backend
	ids atomic.Pointer[identity]
}

// identity is how etcd names the pod: numbers made from the uuids.
type identity struct{ cluster, member uint64 }

// header builds the response header for a revision.
func (p *pod) header(revision int64) *pb.ResponseHeader {
	ids := p.identity()
	return &pb.ResponseHeader{ClusterId: ids.cluster, MemberId: ids.member, Revision: revision, RaftTerm: p.Term()}
}

// identity never changes once the pod belongs to a cluster.
func (p *pod) identity() identity {
	if ids := p.ids.Load(); ids != nil {
		return *ids
	}
	log, err := p.Log()
	if err != nil || log.ClusterID() == "" {
		return identity{}
	}
	ids := identity{cluster: number(log.ClusterID()), member: number(string(log.MemberID()))}
	p.ids.Store(&ids)
	return ids
}

// number makes an etcd id from a name: 64 bits of its hash, but never 0, which means
// "none" to etcd's clients.
func number(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name)) //nolint:errcheck // A hash takes everything.
	return max(h.Sum64(), 1)
}
