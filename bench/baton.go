package main

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

// Baton is kvd.
type Baton struct {
	binary, version string
}

func (b *Baton) Name() string    { return "baton" }
func (b *Baton) Version() string { return b.version }

// Command leaves everything at Baton's defaults but names and addresses.
func (b *Baton) Command(pods []*cluster.Pod, i int) []string {
	var peers []string
	for _, p := range pods {
		peers = append(peers, p.Name+"="+p.Peer)
	}
	return pods[i].Serve(b.binary, "--peers", strings.Join(peers, ","))
}

func (b *Baton) Client(conn *grpc.ClientConn) Client {
	return &batonClient{
		kv:          kvv1.NewKVServiceClient(conn),
		cluster:     kvv1.NewClusterServiceClient(conn),
		maintenance: kvv1.NewMaintenanceServiceClient(conn),
		health:      healthpb.NewHealthClient(conn),
	}
}

type batonClient struct {
	kv          kvv1.KVServiceClient
	cluster     kvv1.ClusterServiceClient
	maintenance kvv1.MaintenanceServiceClient
	health      healthpb.HealthClient
}

func (c *batonClient) Put(ctx context.Context, key, value []byte) error {
	_, err := c.kv.Put(ctx, &kvv1.PutRequest{Key: key, Value: value})
	return err
}

func (c *batonClient) Get(ctx context.Context, key []byte) ([]byte, error) {
	r, err := c.kv.Range(ctx, &kvv1.RangeRequest{Key: key})
	if err != nil || len(r.Kvs) == 0 {
		return nil, err
	}
	return r.Kvs[0].Value, nil
}

func (c *batonClient) PutMany(ctx context.Context, pairs []Pair) error {
	txn := &kvv1.TxnRequest{}
	for _, p := range pairs {
		put := &kvv1.PutRequest{Key: p.Key, Value: p.Value}
		txn.Success = append(txn.Success, &kvv1.Op{Op: &kvv1.Op_Put{Put: put}})
	}
	_, err := c.kv.Txn(ctx, txn)
	return err
}

func (c *batonClient) Empty(ctx context.Context) error { return emptyCall(ctx, c.health) }

func (c *batonClient) Leads(ctx context.Context) (bool, error) {
	r, err := c.cluster.Status(ctx, &kvv1.StatusRequest{ThisPodOnly: true})
	if err != nil {
		return false, err
	}
	if len(r.Pods) != 1 {
		return false, errors.New("the pod's status does not have one entry")
	}
	return r.Pods[0].Role == kvv1.PodStatus_ROLE_MASTER, nil
}

func (c *batonClient) Scan(ctx context.Context, prefix []byte, emit func(Pair) error) error {
	request := &kvv1.RangeRequest{Key: prefix, RangeEnd: prefixEnd(prefix)}
	for {
		r, err := c.kv.Range(ctx, request)
		if err != nil {
			return err
		}
		for _, kv := range r.Kvs {
			if err := emit(Pair{kv.Key, kv.Value}); err != nil {
				return err
			}
		}
		if !r.More {
			return nil
		}
		request.Key, request.Revision = r.NextKey, r.Header.Revision
	}
}

func (c *batonClient) Delete(ctx context.Context, from, end []byte) error {
	_, err := c.kv.Delete(ctx, &kvv1.DeleteRequest{Key: from, RangeEnd: end})
	return err
}

func (c *batonClient) Compact(ctx context.Context, key []byte, keep int64) error {
	r, err := c.kv.Range(ctx, &kvv1.RangeRequest{Key: key})
	if err != nil || r.Header.Revision <= keep {
		return err
	}
	_, err = c.maintenance.Compact(ctx, &kvv1.CompactRequest{Revision: r.Header.Revision - keep})
	return err
}

// Defragment is not needed.
func (c *batonClient) Defragment(context.Context) error { return nil }
