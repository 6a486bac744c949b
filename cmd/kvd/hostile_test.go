package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication/node"
	"github.com/batondb/baton/server"
)

// hostile runs other software in the place of a pod, which is stopped: it has the
// pod's volume, and all that proves who it is. It returns a connection to the peer
// port of another.
func (s *statefulSet) hostile(name string) (conn func(to string) *grpc.ClientConn, end func()) {
	s.t.Helper()
	s.stopAll(name)
	c := s.config(name)
	c.world = c.world.complete()
	registry, logger := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	listener, err := net.Listen("tcp", s.addresses[name])
	if err != nil {
		s.t.Fatal(err)
	}
	ports := &ports{client: listener, peer: listener, http: listener}
	p := &pod{config: &c, logger: logger, server: server.New(c.serverOptions(logger, registry, ports)), kubernetes: c.inKubernetes(logger)}
	tls, err := c.ownPeerTLS(s.t.Context(), p.kubernetes, logger, p.server.Wait)
	if err != nil {
		s.t.Fatal(err)
	}
	options := c.replicationOptions(logger, registry, listener, p.server)
	options.Security = tls.security()
	n, err := node.Open(s.t.Context(), options)
	if err != nil {
		s.t.Fatal(err)
	}
	conn = func(to string) *grpc.ClientConn {
		s.t.Helper()
		conn, err := n.PeerConn(to)
		if err != nil {
			s.t.Fatal(err)
		}
		return conn
	}
	return conn, func() {
		if err := n.Close(context.Background()); err != nil {
			s.t.Error(err)
		}
		s.start(name)
	}
}

func (s *statefulSet) masterOf(asked string) (master string) {
	s.t.Helper()
	s.eventually("there is a master", func() error {
		for _, p := range s.status(asked).GetPods() {
			if p.GetRole() == kvv1.PodStatus_ROLE_MASTER {
				master = p.GetName()
			}
		}
		if master == "" {
			return context.DeadlineExceeded
		}
		return nil
	})
	return master
}

// unknownField is one that no version has.
var unknownField = protowire.AppendVarint(protowire.AppendTag(nil, 1999, protowire.VarintType), 1)

// forwardedAttacks are commands that ended every pod, at once or at its next flush, once one
// was in the log.
func forwardedAttacks() map[string]*kvv1.Command {
	put := func(key string) *kvv1.PutRequest { return &kvv1.PutRequest{Key: []byte(key), Value: []byte("v")} }
	command := func(p *kvv1.PutRequest) *kvv1.Command { return &kvv1.Command{Command: &kvv1.Command_Put{Put: p}} }
	outside, inside := command(put("a")), command(put("b"))
	outside.ProtoReflect().SetUnknown(unknownField)
	inside.GetPut().ProtoReflect().SetUnknown(unknownField)
	long := put(strings.Repeat("k", 40_000))
	return map[string]*kvv1.Command{
		"a field that nobody knows":               outside,
		"a field of a put that nobody knows":      inside,
		"a command that nobody knows":             {},
		"a key of 40,000 bytes":                   command(long),
		"a key of 40,000 bytes in a transaction":  {Command: &kvv1.Command_Txn{Txn: &kvv1.TxnRequest{Success: []*kvv1.Op{{Op: &kvv1.Op_Put{Put: long}}}}}},
		"a key of 40,000 bytes in a batch":        {Command: &kvv1.Command_Batch{Batch: &kvv1.WriteBatch{Writes: []*kvv1.Write{{Write: &kvv1.Write_Put{Put: long}}}}}},
		"a lease without an id":                   {Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{TtlSeconds: 5}}},
		"a lease that outlives everybody":         {Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{Id: 1, TtlSeconds: 1 << 62}}},
		"a request id that is none":               command(&kvv1.PutRequest{Key: []byte("c"), RequestId: &kvv1.RequestId{ClientId: []byte("short")}}),
		"a transaction that writes one key twice": {Command: &kvv1.Command_Txn{Txn: &kvv1.TxnRequest{Success: []*kvv1.Op{{Op: &kvv1.Op_Put{Put: put("d")}}, {Op: &kvv1.Op_Put{Put: put("d")}}}}}},
	}
}

// A pod with all that proves who it is forwards what no client can have sent: each
// is refused, for what it is, on a stream that goes on, and all pods serve afterwards,
// after a restart, too.
func TestForwardedAttacks(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	s.startWhole(all...)
	conn, end := s.hostile("kv-2")
	master := s.masterOf("kv-0")
	stream, err := peerv1.NewPeerServiceClient(conn(master)).Forward(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exchange := func(id uint64, c *kvv1.Command) *peerv1.ForwardResponse {
		t.Helper()
		if err := stream.Send(&peerv1.ForwardRequest{Id: id, Command: c}); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil || answer.GetId() != id {
			t.Fatalf("%v, %v", answer, err)
		}
		return answer
	}
	id := uint64(0)
	for name, attack := range forwardedAttacks() {
		id++
		answer := exchange(id, attack)
		switch answer.GetError().GetReason() {
		case kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST, kvv1.ErrorReason_ERROR_REASON_TOO_LARGE:
		default:
			t.Errorf("%s: %v", name, answer)
		}
	}
	good := &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("good"), Value: []byte("v")}}}
	if answer := exchange(id+1, good); answer.GetResult().GetPut().GetHeader().GetRevision() != 2 {
		t.Errorf("after what was refused a put gives %v", answer)
	}
	end()
	s.awaitReady(all...)
	s.stopAll(all...) // Which flushes.
	s.start(all...)
	s.awaitReady(all...)
	for _, name := range all {
		s.mustHave(name, "good", "v")
	}
}

// spendTerm gives a pod that is down the last term that there is, as a message did to a
// version that believed it.
func (s *statefulSet) spendTerm(name string) {
	s.t.Helper()
	db, err := bbolt.Open(filepath.Join(s.volume(name), "raft", "vote.db"), 0o600, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("conf")).Put([]byte("CurrentTerm"), bytes.Repeat([]byte{0xff}, 8))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// Three volumes whose terms are used up have no master, though all pods answer. A
// person can begin a new history from the one with most.
func TestRecoverFromSpentTerms(t *testing.T) {
	t.Parallel()
	s := newStatefulSet(t, 3)
	all := []string{"kv-0", "kv-1", "kv-2"}
	s.startWhole(all...)
	s.mustPut("kv-0", "k")
	for _, name := range all {
		s.mustHave(name, "k", "v")
	}
	s.stopAll(all...)
	for _, name := range all {
		s.spendTerm(name)
	}
	s.start(all...)
	recovered := ""
	s.eventually("one recovers", func() error {
		var refused error
		for _, name := range all {
			c := s.config(name)
			if _, err := recoverPod(t.Context(), &c, nil); err != nil {
				refused = errors.Join(refused, err)
				continue
			}
			recovered = name
			return nil
		}
		return refused
	})
	for _, name := range all {
		if name != recovered {
			s.pods[name].cancel()
			t.Log(<-s.pods[name].ended)
			delete(s.pods, name)
			s.wipe(name)
			s.start(name)
		}
	}
	s.awaitReady(all...)
	for _, name := range all {
		s.mustHave(name, "k", "v")
	}
	s.mustPut("kv-1", "after")
}
