package rights

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/etcd/answers"
	"github.com/batondb/baton/test/etcd/servers"
)

var (
	seed     = flag.Uint64("seed", 0, "of the requests; 0: one of the clock")
	requests = flag.Int("requests", 3_000, "how many")
	olderKvd = flag.String("older", "", "a kvd of an earlier version, for one of the pods, which lead in turn then")
)

// turn is after how many requests another pod leads, if one of them is older.
const turn = 200

// patience bounds one request.
const patience = 20 * time.Second

// comparison is one run.
type comparison struct {
	*testing.T
	*generator
	etcd    *grpc.ClientConn
	baton   []*grpc.ClientConn
	tokens  map[string][2]string // A user's at etcd and at Baton; they may have ended.
	refused map[string]int
}

func (c *comparison) context(user string, system int) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(c.Context(), patience)
	if token := c.tokens[user][system]; token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", token)
	}
	return ctx, cancel
}

// send sends a request of a user to both systems.
func (c *comparison) send(user string, request proto.Message) (etcd, baton answers.Answer) {
	ctx, cancel := c.context(user, 0)
	defer cancel()
	etcd = send(ctx, c.etcd, request)
	ctx, cancel = c.context(user, 1)
	defer cancel()
	conn := c.baton[c.IntN(len(c.baton))]
	switch request.(type) {
	case *pb.TxnRequest, *pb.LeaseTimeToLiveRequest, *pb.LeaseLeasesRequest, *pb.WatchCreateRequest:
		// The pod may be a moment behind what was written through another one.
		_ = send(ctx, conn, &pb.RangeRequest{Key: []byte("a")})
	}
	return etcd, send(ctx, conn, request)
}

// login gets a token of both systems for a user, whose password the model knows.
func (c *comparison) login(user string) {
	u := c.model.users[user]
	if u == nil || u.password == "" || !c.model.enabled {
		return
	}
	etcd, baton := c.send("", &pb.AuthenticateRequest{Name: user, Password: u.password})
	if etcd.Err != nil || baton.Err != nil {
		c.Fatalf("seed %d: %s cannot log in: %v, %v", *seed, user, etcd.Err, baton.Err)
	}
	c.tokens[user] = [2]string{etcd.Message.(*pb.AuthenticateResponse).GetToken(), baton.Message.(*pb.AuthenticateResponse).GetToken()}
}

// handOver makes a pod the master, and returns when all serve.
func (c *comparison) handOver(to *cluster.Pod) {
	cluster.Eventually(c, "a hand-over to "+to.Name, cluster.Patience, func(context.Context) error {
		if c.tokens[root] == [2]string{} {
			c.login(root)
		}
		ctx, cancel := c.context(root, 1)
		defer cancel()
		_, err := kvv1.NewMaintenanceServiceClient(to.Conn()).HandOver(ctx, &kvv1.HandOverRequest{To: to.Name})
		for _, conn := range c.baton {
			if err == nil {
				_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")})
			}
		}
		if sameError(err, rpctypes.ErrGRPCInvalidAuthToken) || status.Code(err) == codes.Unauthenticated {
			c.login(root)
		}
		return err
	})
}

// step sends one request, of a user of its own choosing, and compares.
func (c *comparison) step(n int) {
	user := pick(c.generator, append(names, ""))
	request := c.request()
	if c.isChange(request) && c.chance(85) {
		user = root // Others are refused.
	}
	etcd, baton := c.send(user, request)
	etcd.Normalize()
	baton.Normalize()
	what := fmt.Sprintf("request %d, seed %d, of %q:\n%T{%v}", n, *seed, user, request, request)
	if !etcd.Equal(baton) && !named(request, etcd, baton) && (*olderKvd == "" || c.isChange(request) && (etcd.Err == nil) != (baton.Err == nil)) {
		c.Fatalf("%s\netcd:  %v\nbaton: %v", what, etcd, baton)
	}
	if etcd.Err != nil {
		c.refused[etcd.String()]++
	}
	c.judge(what, user, request, etcd)
	if *olderKvd != "" { // It may answer in other words, but not permit another thing.
		c.judge(what+", of Baton", user, request, baton)
	}
	if etcd.Err == nil {
		c.model.change(request)
	}
	if sameError(etcd.Err, rpctypes.ErrGRPCInvalidAuthToken) || c.tokens[user][0] == "" {
		c.login(user)
	}
}

// named is a difference that docs/etcd.md names: of a request that is wrong, or of
// nothing, and of nobody, Baton says the latter; it does not look at the token of who
// asks whether access control is on.
func named(request proto.Message, etcd, baton answers.Answer) bool {
	if _, status := request.(*pb.AuthStatusRequest); status {
		return sameError(etcd.Err, rpctypes.ErrGRPCInvalidAuthToken)
	}
	nobody := sameError(baton.Err, rpctypes.ErrGRPCUserEmpty) || sameError(baton.Err, rpctypes.ErrGRPCInvalidAuthToken)
	_, txn := request.(*pb.TxnRequest)
	all, _ := claims(request)
	return nobody && txn && (len(all) == 0 || sameError(etcd.Err, rpctypes.ErrGRPCDuplicateKey))
}

func (c *comparison) isChange(request proto.Message) bool {
	switch request.(type) {
	case *pb.AuthenticateRequest, *pb.AuthStatusRequest, *pb.AuthUserGetRequest, *pb.AuthRoleGetRequest, *pb.AuthUserListRequest, *pb.AuthRoleListRequest:
		return false
	}
	return strings.HasPrefix(methods[string(request.ProtoReflect().Descriptor().Name())].name, "Auth/")
}

// judge compares with the model whether the request was permitted.
func (c *comparison) judge(what, user string, request proto.Message, got answers.Answer) {
	all, known := claims(request)
	denied := sameError(got.Err, rpctypes.ErrGRPCPermissionDenied)
	refused := got.Err != nil
	if created, ok := got.Message.(*pb.WatchResponse); ok {
		denied = created.GetCancelReason() == rpctypes.ErrGRPCPermissionDenied.Error()
		refused = created.GetCanceled()
	}
	if !known || refused && !denied {
		return
	}
	permitted := true
	for _, claim := range all {
		permitted = permitted && c.model.may(user, claim)
	}
	if permitted == denied {
		c.Fatalf("%s\nto the model it is permitted: %v\nanswer: %v", what, permitted, got)
	}
}

func sameError(err, want error) bool { return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(want) }

func TestSameRights(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d -requests %d", *seed, *requests)
	c := &comparison{
		T: t, tokens: map[string][2]string{}, refused: map[string]int{},
		generator: &generator{Rand: rand.New(rand.NewPCG(*seed, 0)), model: &model{users: map[string]*user{}, roles: map[string][]*authpb.Permission{}}},
	}
	c.etcd = servers.Etcd(t, "--bcrypt-cost", "4").Pods[0].Conn()
	pods := servers.BatonWith(t, *olderKvd, 3).Pods
	for _, p := range pods {
		c.baton = append(c.baton, p.Conn())
	}
	for _, request := range []proto.Message{
		&pb.AuthUserAddRequest{Name: root, Password: "roots"}, &pb.AuthRoleAddRequest{Name: root},
		&pb.AuthUserGrantRoleRequest{User: root, Role: root}, &pb.AuthEnableRequest{},
	} {
		etcd, baton := c.send("", request)
		if *olderKvd != "" && status.Code(baton.Err) == codes.FailedPrecondition {
			t.Skipf("the older version knows no users: test/process is the test for it: %v", baton.Err)
		}
		if etcd.Err != nil || baton.Err != nil {
			t.Fatalf("%v: %v, %v", request, etcd.Err, baton.Err)
		}
		c.model.change(request)
	}
	c.login(root)
	for n := range *requests {
		if *olderKvd != "" && n%turn == 0 {
			c.handOver(pods[n/turn%len(pods)])
		}
		c.step(n)
	}
	for why, times := range c.refused {
		t.Logf("%6d times %s", times, why)
	}
}
