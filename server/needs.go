package server

// need is what a method asks of its caller while access control is on.
type need int

const (
	// denied is the need of a method that is not in the table: nobody may call it,
	// also while access control is off.
	denied need = iota
	// nothing: whoever reaches the port may call it, and what comes to prove who calls
	// is not looked at.
	nothing
	// someone: any user.
	someone
	// itsKeys: any user, with rights on the keys of the request, which are looked at
	// where they are read or written: in the store, or where the command is applied.
	itsKeys
	// eachMessage: as itsKeys, but a stream begins also for a caller who has proved
	// nothing, and is told so in the answer to each of its requests.
	eachMessage
	// administrator: a user with the role "root".
	administrator
	// aPod: only the pods of the cluster reach the port, and what they ask for was
	// checked where a client asked.
	aPod
	// thisMachine: only from the pod itself, or by an administrator while access control is
	// on.
	thisMachine
)

// needs is the one table of what each method needs: of Baton's own API, of etcd's, of
// the HTTP port, and of what this package serves on the peer port.
var needs = map[string]need{
	"/baton.kv.v1.KVService/Range":  itsKeys,
	"/baton.kv.v1.KVService/Scan":   itsKeys,
	"/baton.kv.v1.KVService/Put":    itsKeys,
	"/baton.kv.v1.KVService/Delete": itsKeys,
	"/baton.kv.v1.KVService/Txn":    itsKeys,
	"/baton.kv.v1.KVService/Batch":  itsKeys,

	"/baton.kv.v1.WatchService/Watch": itsKeys,

	"/baton.kv.v1.LeaseService/Grant":      someone,
	"/baton.kv.v1.LeaseService/Revoke":     itsKeys,
	"/baton.kv.v1.LeaseService/KeepAlive":  itsKeys,
	"/baton.kv.v1.LeaseService/TimeToLive": itsKeys,
	"/baton.kv.v1.LeaseService/ListLeases": itsKeys,

	"/baton.kv.v1.ClusterService/Status": someone,

	"/baton.kv.v1.MaintenanceService/Compact":  administrator,
	"/baton.kv.v1.MaintenanceService/Snapshot": administrator,
	"/baton.kv.v1.MaintenanceService/Hash":     administrator,
	"/baton.kv.v1.MaintenanceService/HandOver": administrator,

	"/baton.kv.v1.AuthService/AuthStatus":  nothing,
	"/baton.kv.v1.AuthService/Login":       nothing,
	"/baton.kv.v1.AuthService/ChangeAuth":  administrator,
	"/baton.kv.v1.AuthService/ListUsers":   someone, // Itself, or all as an administrator.
	"/baton.kv.v1.AuthService/ListRoles":   someone, // Its own, or all as an administrator.
	"/baton.kv.v1.AuthService/ListTenants": someone, // Its own, or all as an administrator.

	"/etcdserverpb.KV/Range":       itsKeys,
	"/etcdserverpb.KV/RangeStream": itsKeys,
	"/etcdserverpb.KV/Put":         itsKeys,
	"/etcdserverpb.KV/DeleteRange": itsKeys,
	"/etcdserverpb.KV/Txn":         itsKeys,
	"/etcdserverpb.KV/Compact":     administrator,

	"/etcdserverpb.Watch/Watch": eachMessage, // Clients log in and watch again, where an error of the stream would end the watch.

	"/etcdserverpb.Lease/LeaseGrant":      someone,
	"/etcdserverpb.Lease/LeaseRevoke":     itsKeys,
	"/etcdserverpb.Lease/LeaseKeepAlive":  itsKeys,
	"/etcdserverpb.Lease/LeaseTimeToLive": itsKeys,
	"/etcdserverpb.Lease/LeaseLeases":     itsKeys,

	"/etcdserverpb.Cluster/MemberAdd":     administrator,
	"/etcdserverpb.Cluster/MemberRemove":  administrator,
	"/etcdserverpb.Cluster/MemberUpdate":  administrator,
	"/etcdserverpb.Cluster/MemberPromote": administrator,
	"/etcdserverpb.Cluster/MemberList":    someone,

	"/etcdserverpb.Maintenance/Alarm":      someone, // To raise or end one needs an administrator.
	"/etcdserverpb.Maintenance/Status":     someone,
	"/etcdserverpb.Maintenance/Defragment": administrator,
	"/etcdserverpb.Maintenance/Hash":       administrator,
	"/etcdserverpb.Maintenance/HashKV":     administrator,
	"/etcdserverpb.Maintenance/Snapshot":   administrator,
	"/etcdserverpb.Maintenance/MoveLeader": administrator,
	"/etcdserverpb.Maintenance/Downgrade":  administrator,

	"/etcdserverpb.Auth/AuthEnable":           administrator,
	"/etcdserverpb.Auth/AuthDisable":          administrator,
	"/etcdserverpb.Auth/AuthStatus":           nothing,
	"/etcdserverpb.Auth/Authenticate":         nothing,
	"/etcdserverpb.Auth/UserAdd":              administrator,
	"/etcdserverpb.Auth/UserGet":              someone, // As ListUsers.
	"/etcdserverpb.Auth/UserList":             administrator,
	"/etcdserverpb.Auth/UserDelete":           administrator,
	"/etcdserverpb.Auth/UserChangePassword":   administrator,
	"/etcdserverpb.Auth/UserGrantRole":        administrator,
	"/etcdserverpb.Auth/UserRevokeRole":       administrator,
	"/etcdserverpb.Auth/RoleAdd":              administrator,
	"/etcdserverpb.Auth/RoleGet":              someone, // As ListRoles.
	"/etcdserverpb.Auth/RoleList":             administrator,
	"/etcdserverpb.Auth/RoleDelete":           administrator,
	"/etcdserverpb.Auth/RoleGrantPermission":  administrator,
	"/etcdserverpb.Auth/RoleRevokePermission": administrator,

	"/v3lockpb.Lock/Lock":   itsKeys,
	"/v3lockpb.Lock/Unlock": itsKeys,

	"/v3electionpb.Election/Campaign": itsKeys,
	"/v3electionpb.Election/Proclaim": itsKeys,
	"/v3electionpb.Election/Leader":   itsKeys,
	"/v3electionpb.Election/Observe":  itsKeys,
	"/v3electionpb.Election/Resign":   itsKeys,

	"/grpc.health.v1.Health/Check":                                   nothing,
	"/grpc.health.v1.Health/List":                                    nothing,
	"/grpc.health.v1.Health/Watch":                                   nothing,
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      nothing,
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": nothing,

	"GET /livez":           nothing,
	"GET /readyz":          nothing,
	"GET /metrics":         nothing,
	"GET /{$}":             nothing,
	"/debug/pprof/":        thisMachine,
	"/debug/pprof/cmdline": thisMachine,
	"/debug/pprof/profile": thisMachine,
	"/debug/pprof/symbol":  thisMachine,
	"/debug/pprof/trace":   thisMachine,
	peerPort + leases:      aPod,
}

// The lease service is on the peer port, too: the master answers for all pods.
const (
	peerPort = "peer"
	leases   = "/baton.kv.v1.LeaseService/"
)
