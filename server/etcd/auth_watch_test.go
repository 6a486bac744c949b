package etcd

import (
	"context"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// watchAs begins a watch, and returns what comes first.
func watchAs(t *testing.T, s *secured, ctx context.Context, key, end string) (pb.Watch_WatchClient, *pb.WatchResponse) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	t.Cleanup(cancel)
	stream, err := pb.NewWatchClient(s.conn).Watch(ctx)
	if err == nil {
		err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)},
		}})
	}
	var first *pb.WatchResponse
	if err == nil {
		first, err = stream.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	return stream, first
}

// A watch from a key on needs read on all keys after it (GHSA-xg4h-6gfc-h4m8), and the
// client hears why it may not watch.
func TestRightsToWatch(t *testing.T) {
	s := newSecured(t, permission(reading, "k", ""), permission(reading, "r", "t"))
	for _, test := range []struct {
		key, end string
		allowed  bool
	}{{"k", "", true}, {"r", "t", true}, {"k", "\x00", false}, {"r", "\x00", false}, {"k", "l", false}, {"r", "u", false}, {"", "\x00", false}, {"a", "", false}} {
		_, first := watchAs(t, s, s.alice, test.key, test.end)
		want := ""
		if !test.allowed {
			want = rpctypes.ErrGRPCPermissionDenied.Error()
		}
		if first.GetCanceled() == test.allowed || first.GetCancelReason() != want {
			t.Errorf("watching %q to %q: %v", test.key, test.end, first)
		}
	}
	if _, first := watchAs(t, s, s.nobody, "k", ""); first.GetCancelReason() != rpctypes.ErrGRPCUserEmpty.Error() {
		t.Errorf("watching as nobody: %v", first)
	}
	expired := metadata.AppendToOutgoingContext(t.Context(), "token", "baton-AAAA")
	if _, first := watchAs(t, s, expired, "k", ""); first.GetCancelReason() != rpctypes.ErrGRPCInvalidAuthToken.Error() {
		t.Errorf("watching with a token that is none: %v", first)
	}
}

// Who may watch nothing cannot have the master asked how far it is, again and again.
func TestProgressOfNobody(t *testing.T) {
	s := newSecured(t)
	stream, first := watchAs(t, s, s.nobody, "k", "")
	if !first.GetCanceled() {
		t.Fatal(first)
	}
	before := s.log.reads.Load()
	for range 5 {
		s.must(nil, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}))
	}
	s.must(nil, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}))
	s.must(stream.Recv())
	if asked := s.log.reads.Load() - before; asked > 1 { // For the watch that is refused.
		t.Errorf("the master is asked %d times", asked)
	}
}

// When its user may no longer read the keys, a watch ends, with nothing that was written
// afterwards; one of somebody else goes on.
//
// Scenario: S47
func TestRevokingEndsWatches(t *testing.T) {
	s := newSecured(t, permission(reading, "k", ""))
	hers, _ := watchAs(t, s, s.alice, "k", "")
	roots, _ := watchAs(t, s, s.root, "k", "")
	s.must(s.auth.RoleRevokePermission(s.root, &pb.AuthRoleRevokePermissionRequest{Role: "alice", Key: []byte("k")}))
	s.must(s.kv.Put(s.root, &pb.PutRequest{Key: []byte("k")}))
	if end, err := hers.Recv(); err != nil || !end.GetCanceled() || len(end.GetEvents()) > 0 ||
		end.GetCancelReason() != rpctypes.ErrGRPCPermissionDenied.Error() {
		t.Errorf("the watch of a user who may not read the key any more: %v, %v", end, err)
	}
	if event, err := roots.Recv(); err != nil || len(event.GetEvents()) != 1 {
		t.Errorf("the watch of root: %v, %v", event, err)
	}
	// A new password: log in, and watch again.
	s.must(s.auth.UserChangePassword(s.root, &pb.AuthUserChangePasswordRequest{Name: "root", Password: "roots"}))
	if end, err := roots.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch of a user with another password: %v, %v", end, err)
	}
	_, err := s.kv.Put(s.root, &pb.PutRequest{Key: []byte("k")})
	s.want("a put with the token of the password before", rpctypes.ErrGRPCInvalidAuthToken, err)
}

// What is no token, and one with a bit flipped, is refused by etcd's name, but to log in;
// others' changes end none.
func TestTokens(t *testing.T) {
	s := newSecured(t, permission(both, "k", ""))
	good, _ := metadata.FromOutgoingContext(s.alice)
	token := good.Get("token")[0]
	for i := range len(token) {
		flipped := []byte(token)
		flipped[i] ^= 1
		if i < len("baton-") || string(flipped) == token {
			continue // It is no token then, and nobody's.
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), "token", string(flipped))
		_, err := s.kv.Put(ctx, &pb.PutRequest{Key: []byte("k")})
		if err == nil || !sameError(err, rpctypes.ErrGRPCInvalidAuthToken) {
			t.Fatalf("with bit 0 of byte %d flipped: %v", i, err)
		}
		if i == len(token)-1 {
			s.must(s.auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: "alices"}))
		}
	}
	s.must(s.auth.UserAdd(s.root, &pb.AuthUserAddRequest{Name: "bob", Password: "bobs"}))
	s.must(s.auth.UserDelete(s.root, &pb.AuthUserDeleteRequest{Name: "bob"}))
	s.must(s.kv.Put(s.alice, &pb.PutRequest{Key: []byte("k")}))
	bearer := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
	s.must(s.kv.Put(bearer, &pb.PutRequest{Key: []byte("k")}))
	s.must(s.auth.AuthDisable(s.root, &pb.AuthDisableRequest{}))
	s.must(s.auth.AuthEnable(t.Context(), &pb.AuthEnableRequest{}))
	_, err := s.kv.Put(s.alice, &pb.PutRequest{Key: []byte("k")})
	s.want("a put with a token of before access control was off", rpctypes.ErrGRPCInvalidAuthToken, err)
}

// Guesses are refused after some, before the password is looked at, but not somebody
// else's login.
func TestGuessing(t *testing.T) {
	s := newSecured(t)
	for guesses := 0; ; guesses++ {
		_, err := s.auth.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "root", Password: "guess"})
		if sameError(err, rpctypes.ErrGRPCRequestTooManyRequests) {
			break
		}
		s.want("a guess", rpctypes.ErrGRPCAuthFailed, err)
		if guesses == 100 {
			t.Fatal("nobody stops a hundred guesses")
		}
	}
	s.must(s.auth.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "alice", Password: "alices"}))
}
