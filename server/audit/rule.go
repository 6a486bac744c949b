package audit

import (
	"bytes"
	"fmt"
	"strings"
)

// Rule says which calls are written down. The zero Rule is none.
type Rule struct {
	on, reads bool
	prefix    []byte // nil: whatever the keys
}

// ParseRule reads a rule as people write it: off, writes, all, or prefix:KEYS.
func ParseRule(text string) (Rule, error) {
	switch text {
	case "off":
		return Rule{}, nil
	case "writes":
		return Rule{on: true}, nil
	case "all":
		return Rule{on: true, reads: true}, nil
	}
	if prefix, ok := strings.CutPrefix(text, "prefix:"); ok && prefix != "" {
		return Rule{on: true, reads: true, prefix: []byte(prefix)}, nil
	}
	return Rule{}, fmt.Errorf("the rule %q is none of off, writes, all, prefix:KEYS", text)
}

// On says whether the rule takes any call.
func (r Rule) On() bool { return r.on }

// takes says whether a method's calls are written down, as far as its name tells.
func (r Rule) takes(method string) bool { return r.on && (r.reads || !reads[method]) }

// keyRange is one key, or the keys from key up to end, exclusive. An end of one zero byte
// stands for the end of all keys.
type keyRange struct{ key, end []byte }

// touches says whether a range has a key with a prefix, or could have.
func (k keyRange) touches(prefix []byte) bool {
	if len(k.end) == 0 {
		return bytes.HasPrefix(k.key, prefix)
	}
	if after := next(prefix); after != nil && bytes.Compare(k.key, after) >= 0 {
		return false
	}
	return bytes.Equal(k.end, []byte{0}) || bytes.Compare(k.end, prefix) > 0
}

// next is the first key after all those with a prefix; nil: there is none.
func next(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			after := bytes.Clone(prefix[:i+1])
			after[i]++
			return after
		}
	}
	return nil
}

// reads are the methods that change nothing. What is not in it writes.
var reads = map[string]bool{
	"/baton.kv.v1.KVService/Range":         true,
	"/baton.kv.v1.KVService/Scan":          true,
	"/baton.kv.v1.WatchService/Watch":      true,
	"/baton.kv.v1.LeaseService/TimeToLive": true,
	"/baton.kv.v1.LeaseService/ListLeases": true,
	"/baton.kv.v1.LeaseService/KeepAlive":  true, // It is what holds keys that goes on, not what changes them.
	"/baton.kv.v1.ClusterService/Status":   true,
	"/baton.kv.v1.MaintenanceService/Hash": true,
	"/baton.kv.v1.AuthService/AuthStatus":  true,
	"/baton.kv.v1.AuthService/ListUsers":   true,
	"/baton.kv.v1.AuthService/ListRoles":   true,
	"/baton.kv.v1.AuthService/ListTenants": true,
	"/etcdserverpb.KV/Range":               true,
	"/etcdserverpb.KV/RangeStream":         true,
	"/etcdserverpb.Watch/Watch":            true,
	"/etcdserverpb.Lease/LeaseTimeToLive":  true,
	"/etcdserverpb.Lease/LeaseLeases":      true,
	"/etcdserverpb.Lease/LeaseKeepAlive":   true,
	"/etcdserverpb.Cluster/MemberList":     true,
	"/etcdserverpb.Maintenance/Status":     true,
	"/etcdserverpb.Maintenance/Hash":       true,
	"/etcdserverpb.Maintenance/HashKV":     true,
	"/etcdserverpb.Auth/AuthStatus":        true,
	"/etcdserverpb.Auth/UserGet":           true,
	"/etcdserverpb.Auth/UserList":          true,
	"/etcdserverpb.Auth/RoleGet":           true,
	"/etcdserverpb.Auth/RoleList":          true,
	"/v3electionpb.Election/Leader":        true,
	"/v3electionpb.Election/Observe":       true,
}
