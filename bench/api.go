package main

import (
	"context"
	"math/rand/v2"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func apiMeasurement() Measurement {
	return Measurement{
		Name:    "api",
		Summary: "the etcd v3 API of both, called with etcd's own Go client (clientv3)",
		About: `Baton speaks etcd's v3 API, so here both are called by the same program: clientv3, 100 clients of one connection
each. The writes and reads are those of the measurements above: 1,000 callers, 256 bytes, writes at the master, linearizable
reads at all three pods. *Delivery* is of watches: 1,000 of one key, 10 on each client, spread over the three pods, while the
key is written 10 times a second, at the master; it is the time from the moment before a write was sent to the moment when one
watcher has its event, so the write itself is in it, and each event counts 1,000 times.`,
		Metrics: []Metric{
			{Key: "put/rate", Label: "Writes, 1,000 callers", Format: perSecond, Target: Target{ratioAtLeast, 1.7}},
			{Key: "put/p50", Label: "– median latency", Format: milliseconds},
			{Key: "put/p99", Label: "– 99th percentile", Format: milliseconds, Target: Target{ratioAtMost, 1}},
			{Key: "put/cpu", Label: "– processor time of the pods for 1,000 writes", Format: milliseconds},
			{Key: "get/rate", Label: "Linearizable reads, 1,000 callers", Format: perSecond, Target: Target{ratioAtLeast, 1.2}},
			{Key: "get/p50", Label: "– median latency", Format: milliseconds},
			{Key: "get/p99", Label: "– 99th percentile", Format: milliseconds},
			{Key: "get/cpu", Label: "– processor time of the pods for 1,000 reads", Format: milliseconds},
			{Key: "watch/p50", Label: "Delivery to 1,000 watchers, median", Format: milliseconds, Target: Target{ratioAtMost, 1}},
			{Key: "watch/p99", Label: "– 99th percentile", Format: milliseconds, Target: Target{ratioAtMost, 1}},
			{Key: "watch/cpu", Label: "– processor time of the pods for 1,000 events", Format: milliseconds},
		},
		Round: apiRound,
	}
}

func apiRound(ctx context.Context, lab *Lab, system System) (Round, error) {
	round := Round{}
	err := lab.with(ctx, system, func(c *Cluster) error {
		if err := fill(ctx, c, lab.Plan.Keys); err != nil {
			return err
		}
		// The writes come last: what a system leaves for later would be counted as
		// the others'.
		if err := apiLoad(ctx, lab, c, "get/", round, getCall(lab.Plan.Keys), 0, 1, 2); err != nil {
			return err
		}
		if err := watchLoad(ctx, lab, c, round); err != nil {
			return err
		}
		leader, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		return apiLoad(ctx, lab, c, "put/", round, putCall(lab.Plan.Keys), leader)
	})
	return round, err
}

// apiLoad is one load through clientv3 against the given pods.
func apiLoad(ctx context.Context, lab *Lab, c *Cluster, prefix string, round Round,
	call func(context.Context, Client, *rand.Rand) error, pods ...int,
) error {
	etcds, closeAll, err := c.dialEtcd(manyConnections, pods...)
	if err != nil {
		return err
	}
	defer closeAll()
	name := strings.TrimSuffix(prefix, "/")
	profiles, err := prepareProfiles(ctx, lab, c, "api-"+name)
	if err != nil {
		return err
	}
	defer profiles.wait()
	load := Load{Callers: manyCallers, Warmup: lab.Plan.Warmup, Duration: lab.Plan.Duration, Call: call, During: profiles.start}
	for _, e := range etcds {
		load.Clients = append(load.Clients, &apiClient{Client: (&Etcd{}).Client(e.ActiveConnection()), kv: e})
	}
	s, err := load.Run(ctx, c)
	lab.note("api, "+name, c.System, s)
	round.addSample(prefix, s)
	return err
}

// dialEtcd makes n clients of one connection each, spread over the given pods.
func (c *Cluster) dialEtcd(n int, pods ...int) ([]*clientv3.Client, func(), error) {
	var clients []*clientv3.Client
	closeAll := func() {
		for _, client := range clients {
			_ = client.Close()
		}
	}
	for i := range n {
		config := clientv3.Config{Endpoints: []string{c.Pods[pods[i%len(pods)]].Client}, Logger: zap.NewNop(), TLS: c.security.tls}
		if c.security.token != "" {
			config.Username, config.Password = benchUser, benchPassword
		}
		client, err := clientv3.New(config)
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		clients = append(clients, client)
	}
	return clients, closeAll, nil
}

// apiClient writes and reads with clientv3, and does the rest with the stubs.
type apiClient struct {
	Client
	kv clientv3.KV
}

func (a *apiClient) Put(ctx context.Context, key, value []byte) error {
	_, err := a.kv.Put(ctx, string(key), string(value))
	return err
}

func (a *apiClient) Get(ctx context.Context, key []byte) ([]byte, error) {
	r, err := a.kv.Get(ctx, string(key))
	if err != nil || len(r.Kvs) == 0 {
		return nil, err
	}
	return r.Kvs[0].Value, nil
}
