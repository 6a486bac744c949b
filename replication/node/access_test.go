package node

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/machinetest"
)

// Every method between pods is in the list of what each needs, and nothing else is; the
// lease service's are those that followers ask the master.
func TestEveryMethodIsListed(t *testing.T) {
	server := grpc.NewServer()
	peerv1.RegisterPeerServiceServer(server, peerv1.UnimplementedPeerServiceServer{})
	kvv1.RegisterLeaseServiceServer(server, kvv1.UnimplementedLeaseServiceServer{})
	there := map[string]bool{}
	for service, info := range server.GetServiceInfo() {
		for _, m := range info.Methods {
			name := "/" + service + "/" + m.Name
			there[name] = true
			if listed := needs[name]; listed.most == 0 && (listed.cluster || listed.own != nil) {
				t.Errorf("%s lets no call through", name)
			}
		}
	}
	for _, denied := range []string{
		kvv1.LeaseService_Grant_FullMethodName, kvv1.LeaseService_Revoke_FullMethodName, kvv1.LeaseService_ListLeases_FullMethodName,
	} {
		if _, listed := needs[denied]; listed {
			t.Errorf("%s is not for pods", denied)
		}
		delete(there, denied)
	}
	for method := range there {
		if _, listed := needs[method]; !listed {
			t.Errorf("%s is not in the list: say what it needs", method)
		}
	}
	for method := range needs {
		if !there[method] {
			t.Errorf("%s is in the list, and there is no such method", method)
		}
	}
}

func denied(err error) bool { return status.Code(err) == codes.PermissionDenied }

// A pod that proves who it is speaks for itself only.
func TestAPodSpeaksForItself(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.served("before")
	m, followers := c.master(), c.followers()
	p, other := followers[0], followers[1]
	conn, err := p.node.PeerConn(m.name)
	if err != nil {
		t.Fatal(err)
	}
	calls, leases := peerv1.NewPeerServiceClient(conn), kvv1.NewLeaseServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	victim := string(other.node.MemberID())
	for name, call := range map[string]func() error{
		"a live voter's removal": func() error {
			_, err := calls.Leave(ctx, &peerv1.LeaveRequest{MemberId: victim})
			return err
		},
		"a live voter's new disk": func() error {
			_, err := calls.Leave(ctx, &peerv1.LeaveRequest{MemberId: victim, Reclone: true})
			return err
		},
		"another's admission": func() error {
			_, err := calls.Join(ctx, &peerv1.JoinRequest{MemberId: victim, Address: victim})
			return err
		},
		"a log that is kept for another": func() error {
			_, err := calls.KeepLog(ctx, &peerv1.KeepLogRequest{MemberId: victim})
			return err
		},
		"another's doubt": func() error {
			_, err := calls.Compare(ctx, &peerv1.CompareRequest{Pod: other.name})
			return err
		},
		"a lease": func() error {
			_, err := leases.Grant(ctx, &kvv1.GrantRequest{TtlSeconds: 1})
			return err
		},
		"a method that there is not": func() error {
			return conn.Invoke(ctx, "/baton.peer.v1.PeerService/Nothing", &peerv1.InspectRequest{}, &peerv1.InspectResponse{})
		},
	} {
		if err := call(); !denied(err) && status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := calls.Join(ctx, &peerv1.JoinRequest{MemberId: string(p.node.MemberID()), Address: string(p.node.MemberID())}); err != nil {
		t.Errorf("its own admission: %v", err)
	}
	c.served("after")
	if n := len(m.node.Members()); n != 3 {
		t.Errorf("%d members", n)
	}
}

// A pod of another cluster, or of another StatefulSet, that gets to the port at all
// writes nothing, reads nothing and moves nothing.
func TestAStrangersCalls(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.served("before")
	m := c.master()
	for name, stranger := range map[string]struct{ pod string }{"no data yet": {"kv-7"}, "another set": {"other-0"}} {
		p := &pod{c: c, name: stranger.pod, dir: t.TempDir()}
		c.pods[stranger.pod] = p
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		defer cancel()
		o := p.options()
		o.Founding = func(context.Context, replication.MemberID, bool, []string) (string, bool, error) {
			panic("it does not arrive")
		}
		var err error
		if p.node, err = Open(ctx, o); err != nil {
			t.Fatal(err)
		}
		p.cancel, p.started = cancel, make(chan error)
		close(p.started)
		conn, err := p.node.PeerConn(m.name)
		if err != nil {
			t.Fatal(err)
		}
		calls := peerv1.NewPeerServiceClient(conn)
		if _, err := calls.ReadIndex(ctx, &peerv1.ReadIndexRequest{}); !denied(err) {
			t.Errorf("%s: a read: %v", name, err)
		}
		if _, err := calls.HandOver(ctx, &peerv1.HandOverRequest{}); !denied(err) {
			t.Errorf("%s: a hand-over: %v", name, err)
		}
		forwards, err := calls.Forward(ctx)
		if err == nil {
			_, err = forwards.Recv()
		}
		if !denied(err) {
			t.Errorf("%s: a write: %v", name, err)
		}
		clones, err := calls.Clone(ctx, &peerv1.CloneRequest{})
		if err == nil {
			_, err = clones.Recv()
		}
		if denied(err) != (stranger.pod == "other-0") {
			t.Errorf("%s: a clone: %v", name, err)
		}
		p.kill()
		delete(c.pods, stranger.pod)
	}
	c.served("after")
	if c.master() != m {
		t.Log("the master is another one: a busy machine may hold an election at any time")
	}
}

// A pod that asks again and again for what holds something gets so much of it, and no
// other pod less.
func TestStreamsOfOnePod(t *testing.T) {
	c := newCluster(t, 3).boot()
	c.served("before")
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	forward := func(from *pod) error {
		conn, err := from.node.PeerConn(c.master().name)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := peerv1.NewPeerServiceClient(conn).Forward(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&peerv1.ForwardRequest{Id: 1, Command: machinetest.PutCommand("k", "v")}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	p := c.follower()
	refused := 0
	for range 2 * needs[peerv1.PeerService_Forward_FullMethodName].most {
		switch err := forward(p); status.Code(err) {
		case codes.OK:
		case codes.ResourceExhausted:
			refused++
		default:
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("none was refused")
	}
	if err := forward(c.followers()[1]); err != nil {
		t.Errorf("the other pod: %v", err)
	}
}

// Whatever a pod sends in a call, the pod that is called answers, and goes on.
func FuzzPeerCalls(f *testing.F) {
	c := newCluster(f, 1).boot()
	m := c.pods["kv-0"]
	requests := []proto.Message{
		&peerv1.JoinRequest{MemberId: "kv-1/0b7d6b2e-64ab-4e6b-8d0e-7e0a3f1c9a11", Address: "kv-1/0b7d6b2e-64ab-4e6b-8d0e-7e0a3f1c9a11", Index: 1 << 63, Returning: true},
		&peerv1.LeaveRequest{MemberId: "../../x/0b7d6b2e-64ab-4e6b-8d0e-7e0a3f1c9a11", Reclone: true},
		&peerv1.KeepLogRequest{MemberId: string(m.node.MemberID())},
		&peerv1.CompareRequest{Pod: "kv-0", Own: &peerv1.Mark{Index: 1 << 63, Revision: -1}},
		&peerv1.HandOverRequest{To: "kv-0"},
	}
	for i, req := range requests {
		raw, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), raw)
	}
	f.Fuzz(func(t *testing.T, which byte, raw []byte) {
		req := proto.Clone(requests[int(which)%len(requests)])
		if proto.Unmarshal(raw, req) != nil {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		s := m.node.answers
		switch r := req.(type) {
		case *peerv1.JoinRequest:
			s.Join(ctx, r)
		case *peerv1.LeaveRequest:
			s.Leave(ctx, r)
		case *peerv1.KeepLogRequest:
			s.KeepLog(ctx, r)
		case *peerv1.CompareRequest:
			s.Compare(ctx, r)
		case *peerv1.HandOverRequest:
			s.HandOver(ctx, r)
		}
		select {
		case err := <-m.node.Failed():
			t.Fatal(err)
		default:
		}
	})
}
