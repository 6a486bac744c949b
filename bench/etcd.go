package main

import (
	"context"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/batondb/baton/test/cluster"
)

// etcdQuotaBytes is room for a million keys and their history; etcd's default
// of 2 GiB would end the longer rounds with "no space".
const etcdQuotaBytes = 8 << 30

// Etcd is etcd's real server.
type Etcd struct {
	binary, version string
}

func (e *Etcd) Name() string    { return "etcd" }
func (e *Etcd) Version() string { return e.version }

// Command leaves everything at etcd's defaults but addresses and the quota.
func (e *Etcd) Command(pods []*cluster.Pod, i int) []string {
	scheme := "http://"
	if pods[i].TLS != nil {
		scheme = "https://"
	}
	var members []string
	for _, p := range pods {
		members = append(members, p.Name+"="+scheme+p.Peer)
	}
	p := pods[i]
	return []string{
		e.binary,
		"--name", p.Name,
		"--data-dir", p.Dir,
		"--listen-client-urls", scheme + p.Client,
		"--advertise-client-urls", scheme + p.Client,
		"--listen-client-http-urls", scheme + p.HTTP, // on one port with gRPC is "not recommended for production"
		"--listen-peer-urls", scheme + p.Peer,
		"--initial-advertise-peer-urls", scheme + p.Peer,
		"--initial-cluster", strings.Join(members, ","),
		"--initial-cluster-token", "bench",
		"--initial-cluster-state", "new",
		"--quota-backend-bytes", fmt.Sprint(etcdQuotaBytes),
		"--log-level", "warn",
	}
}

func (e *Etcd) Client(conn *grpc.ClientConn) Client {
	return &etcdClient{
		kv:          pb.NewKVClient(conn),
		maintenance: pb.NewMaintenanceClient(conn),
		health:      healthpb.NewHealthClient(conn),
	}
}

type etcdClient struct {
	kv          pb.KVClient
	maintenance pb.MaintenanceClient
	health      healthpb.HealthClient
}

func (c *etcdClient) Put(ctx context.Context, key, value []byte) error {
	_, err := c.kv.Put(ctx, &pb.PutRequest{Key: key, Value: value})
	return err
}

func (c *etcdClient) Get(ctx context.Context, key []byte) ([]byte, error) {
	r, err := c.kv.Range(ctx, &pb.RangeRequest{Key: key})
	if err != nil || len(r.Kvs) == 0 {
		return nil, err
	}
	return r.Kvs[0].Value, nil
}

func (c *etcdClient) PutMany(ctx context.Context, pairs []Pair) error {
	txn := &pb.TxnRequest{}
	for _, p := range pairs {
		put := &pb.PutRequest{Key: p.Key, Value: p.Value}
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	_, err := c.kv.Txn(ctx, txn)
	return err
}

func (c *etcdClient) Empty(ctx context.Context) error { return emptyCall(ctx, c.health) }

func (c *etcdClient) Leads(ctx context.Context) (bool, error) {
	r, err := c.maintenance.Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return false, err
	}
	return r.Leader == r.Header.MemberId, nil
}

func (c *etcdClient) Scan(ctx context.Context, prefix []byte, emit func(Pair) error) error {
	key, end := prefix, prefixEnd(prefix)
	for {
		r, err := c.kv.Range(ctx, &pb.RangeRequest{Key: key, RangeEnd: end, Limit: 1000})
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
		key = append(r.Kvs[len(r.Kvs)-1].Key, 0)
	}
}

func (c *etcdClient) Delete(ctx context.Context, from, end []byte) error {
	_, err := c.kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: from, RangeEnd: end})
	return err
}

func (c *etcdClient) Compact(ctx context.Context, key []byte, keep int64) error {
	r, err := c.kv.Range(ctx, &pb.RangeRequest{Key: key})
	if err != nil || r.Header.Revision <= keep {
		return err
	}
	_, err = c.kv.Compact(ctx, &pb.CompactionRequest{Revision: r.Header.Revision - keep})
	return err
}

func (c *etcdClient) Defragment(ctx context.Context) error {
	_, err := c.maintenance.Defragment(ctx, &pb.DefragmentRequest{})
	return err
}
