package etcd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/batondb/baton/server"
	"github.com/batondb/baton/server/audit"
)

type trailBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *trailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *trailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// What etcd's clients do is in the trail, with the user of a password, and what they
// may not do as well; no password and no token is.
func TestAuditTrail(t *testing.T) {
	to := &trailBuffer{}
	rule, err := audit.ParseRule("all")
	if err != nil {
		t.Fatal(err)
	}
	trail, err := audit.Open(audit.Options{Rule: rule, Out: to, Pod: "kv-0"})
	if err != nil {
		t.Fatal(err)
	}
	s := secure(t, newSolo(t, func(o *server.Options) { o.Security.Audit = trail }), permission(both, "a", "b"))
	s.must(s.kv.Put(s.alice, &pb.PutRequest{Key: []byte("a"), Value: []byte("SECRET")}))
	_, denied := s.kv.Txn(s.alice, &pb.TxnRequest{Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: []byte("b"), Value: []byte("SECRET")})}})
	_, wrong := s.auth.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "alice", Password: "SECRET"})
	if denied == nil || wrong == nil {
		t.Fatal(denied, wrong)
	}
	watch, err := pb.NewWatchClient(s.conn).Watch(s.alice)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b"} {
		s.must(nil, watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte(key)}}}))
		s.must(watch.Recv())
	}
	awaitTrail := func(what string) {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); !strings.Contains(to.String(), what); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s is not in the trail: %s", what, to.String())
			}
		}
	}
	var got []string
	awaitTrail(`"method":"/etcdserverpb.Watch/Watch","outcome":"PermissionDenied"`)
	for line := range strings.Lines(to.String()) {
		var r struct {
			Caller          struct{ User, Proof string }
			Method, Outcome string
			Keys            []struct{ Key string }
			Names           []string
		}
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, fmt.Sprintf("%s %v %v%v %s", r.Method[strings.LastIndexByte(r.Method, '/')+1:], r.Caller, r.Keys, r.Names, r.Outcome))
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{
		"UserAdd { } [][alice] OK", "RoleGrantPermission { } [{a}][alice] OK",
		"Put {alice password} [{a}][] OK", "Txn {alice password} [{b}][] PermissionDenied",
		"Authenticate { } [][alice] InvalidArgument",
		"Watch {alice password} [{a}][] Begun", "Watch {alice password} [{b}][] Begun", "Watch {alice password} [][] PermissionDenied",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in the trail:\n%s", want, all)
		}
	}
	for _, secret := range []string{"SECRET", "alices", "roots"} {
		if strings.Contains(to.String(), secret) {
			t.Errorf("a value or a password is in the trail: %s", to.String())
		}
	}
}
