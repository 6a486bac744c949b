package main

import (
	"context"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/batondb/baton/test/cluster"
)

// System is a database under test.
type System interface {
	// Name is what the report calls it.
	Name() string
	// Version is what the report says was measured.
	Version() string
	// Command is the program of pod i of pods, and its arguments.
	Command(pods []*cluster.Pod, i int) []string
	// Client speaks to the pod at the other end of the connection.
	Client(*grpc.ClientConn) Client
}

// Pair is a key and its value.
type Pair struct {
	Key, Value []byte
}

// Client is one connection to one pod. It may be used by many goroutines.
type Client interface {
	// Put writes one key in one unary call.
	Put(ctx context.Context, key, value []byte) error
	// Get reads one key, linearizably; nil when it does not exist.
	Get(ctx context.Context, key []byte) ([]byte, error)
	// PutMany writes bulkSize pairs or fewer in one unary call, atomically.
	PutMany(ctx context.Context, pairs []Pair) error
	// Empty is a unary call that does nothing: the health check.
	Empty(ctx context.Context) error
	// Leads tells if the pod is the master (etcd: the leader).
	Leads(ctx context.Context) (bool, error)
	// Scan reads, linearizably and in order, every pair with the prefix.
	Scan(ctx context.Context, prefix []byte, emit func(Pair) error) error
	// Delete removes the keys from one on and before another.
	Delete(ctx context.Context, from, end []byte) error
	// Compact forgets the history of a key's revision and of all before it but the last keep.
	Compact(ctx context.Context, key []byte, keep int64) error
	// Defragment gives back what the pod's files do not need, where that is asked for.
	Defragment(ctx context.Context) error
}

// bulkSize is the number of puts in one bulk call: etcd's default limit of
// operations in a transaction, and Baton's.
const bulkSize = 128

// emptyCall is the health check, the same in both systems.
func emptyCall(ctx context.Context, c healthpb.HealthClient) error {
	_, err := c.Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

// prefixEnd is the key after the last one with the prefix.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0}
}
