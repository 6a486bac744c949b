package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	quotaExceeded = kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED
	rateExceeded  = kvv1.ErrorReason_ERROR_REASON_RATE_EXCEEDED
)

// In any time a tenant gets its burst and what the rate brings, and no more, however
// often it asks; what a call has cost is owed; and what is said to wait is enough.
func TestRates(t *testing.T) {
	now := time.Unix(1000, 0)
	r := newRates()
	r.now = func() time.Time { return now }
	tenant := &kvv1.Tenant{Name: "a", RequestsPerSecond: 10, BytesPerSecond: 1000, BurstMs: 2000}
	ask := func() (passed int) {
		for range 100 {
			if r.begin(nil, tenant) == nil {
				passed++
			}
		}
		return passed
	}
	if got := ask(); got != 20 {
		t.Errorf("%d at first, want the burst", got)
	}
	now = now.Add(time.Second)
	if got := ask(); got != 10 {
		t.Errorf("%d after a second", got)
	}
	now = now.Add(time.Hour)
	if got := ask(); got != 20 {
		t.Errorf("%d after an hour", got)
	}
	err := r.begin(nil, tenant)
	if got := refusal.Of(err).Metadata; refusal.Reason(err) != rateExceeded || got[retryAfterKey] != "1100" || got["tenant"] != "a" {
		t.Errorf("%v %v", err, got)
	}
	now = now.Add(time.Minute)
	if got := ask(); got != 20 {
		t.Errorf("%d after a minute", got)
	}
	now = now.Add(100 * time.Millisecond)
	if err := r.begin(nil, tenant); err != nil {
		t.Errorf("after what it was told to wait: %v", err)
	}
	now = now.Add(5 * time.Second)
	for range 20 {
		if err := r.begin(nil, tenant); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"100", "200", "300"} { // One after the other.
		if got := refusal.Of(r.begin(nil, tenant)).Metadata[retryAfterKey]; got != want {
			t.Errorf("told to wait for %s ms, want %s", got, want)
		}
	}
	now = now.Add(2 * time.Second)
	r.owe(nil, tenant, 5, 5000)
	if wait := r.later(nil, tenant, 1, 0); wait != 3*time.Second {
		t.Errorf("for bytes it waits for %v", wait)
	}
	now = now.Add(3*time.Second - time.Millisecond)
	if err := r.begin(nil, tenant); refusal.Of(err).Metadata[retryAfterKey] != "1" {
		t.Errorf("a moment too soon: %v", err)
	}
	now = now.Add(time.Millisecond)
	if err := r.begin(nil, tenant); err != nil {
		t.Error(err)
	}
	slow := &kvv1.Tenant{Name: "slow", RequestsPerSecond: 1, BurstMs: 10}
	if err := r.begin(nil, slow); err != nil {
		t.Errorf("a burst of less than one request: %v", err)
	}
	for range 1000 {
		if err := r.begin(nil, &kvv1.Tenant{Name: "free"}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWritesOf(t *testing.T) {
	put := &kvv1.Op{Op: &kvv1.Op_Put{Put: &kvv1.PutRequest{}}}
	txn := &kvv1.TxnRequest{Compare: []*kvv1.Compare{{}}, Success: []*kvv1.Op{put, put}, Failure: []*kvv1.Op{{Op: &kvv1.Op_Txn{Txn: &kvv1.TxnRequest{Success: []*kvv1.Op{put, put}}}}}}
	for _, test := range []struct {
		command *kvv1.Command
		want    int
	}{
		{&kvv1.Command{Command: &kvv1.Command_Put{}}, 1},
		{&kvv1.Command{Command: &kvv1.Command_Txn{Txn: txn}}, 5},
		{&kvv1.Command{Command: &kvv1.Command_Txn{Txn: &kvv1.TxnRequest{}}}, 1},
		{&kvv1.Command{Command: &kvv1.Command_Batch{Batch: &kvv1.WriteBatch{Writes: []*kvv1.Write{{Write: &kvv1.Write_Put{}}, {Write: &kvv1.Write_Txn{Txn: txn}}}}}}, 6},
		{&kvv1.Command{Command: &kvv1.Command_Batch{}}, 1},
	} {
		if got := writesOf(test.command); got != test.want {
			t.Errorf("%v: %d, want %d", test.command, got, test.want)
		}
	}
}

// tenanted is a pod with access control on, and the tenant "room" of the ServiceAccount
// n:a with the prefix "k".
func tenanted(t *testing.T, tenant *kvv1.Tenant, change ...func(*Options)) (p *fakePod, as func(name string) context.Context) {
	t.Helper()
	p = newPod(t, "kv-0", append(change, func(o *Options) {
		o.Security.Token = func(_ context.Context, token string) (caller.Caller, error) {
			name, _, _ := strings.Cut(token, ".")
			return caller.Caller{User: name, By: caller.ServiceAccount}, nil
		}
	})...).use()
	p.store.enable()
	tenant.Name, tenant.Prefix, tenant.Users, tenant.Rights = "room", []byte("k"), []string{"a"}, kvv1.Permission_KIND_READWRITE
	p.change(t, &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: tenant}}})
	return p, func(name string) context.Context {
		return metadata.AppendToOutgoingContext(within5s(t), "authorization", "Bearer "+name+".x.y")
	}
}

// change makes a change as a pod, and counts new tenants.
func (p *fakePod) change(t *testing.T, changes ...*kvv1.AuthChange) {
	t.Helper()
	for _, change := range changes {
		command := &kvv1.Command{Command: &kvv1.Command_Auth{Auth: change}, Identity: &kvv1.Identity{Pod: true}}
		if result := p.store.apply(command); result.GetError() != nil {
			t.Fatal(result.GetError())
		}
	}
	if !p.core.countTenant(t.Context(), p.store.Store, "room") {
		t.Fatal("the tenant could not be counted")
	}
}

// A tenant that has used its rate is refused, and told when to come again, in the two
// ways that there are; others are not, and nothing of it is applied.
func TestRateIsRefused(t *testing.T) {
	p, as := tenanted(t, &kvv1.Tenant{RequestsPerSecond: 1, BurstMs: 3000})
	p.core.rates.now = func() time.Time { return time.Unix(1000, 0) }
	put := func(who, key string) error {
		_, err := p.kv().Put(as(who), &kvv1.PutRequest{Key: []byte(key)})
		return err
	}
	for i := range 3 {
		if err := put("a", fmt.Sprint("k", i)); err != nil {
			t.Fatal(err)
		}
	}
	revision := p.store.Revision()
	err := put("a", "k")
	code, reason, info := info(err)
	if code != codes.ResourceExhausted || reason != "RATE_EXCEEDED" || info["retry_after_ms"] != "1000" {
		t.Errorf("%v %s %v", code, reason, info)
	}
	if !slices.ContainsFunc(status.Convert(err).Details(), func(d any) bool {
		retry, ok := d.(*errdetails.RetryInfo)
		return ok && retry.GetRetryDelay().AsDuration() == time.Second
	}) {
		t.Errorf("no RetryInfo: %v", status.Convert(err).Details())
	}
	if _, err := p.kv().Range(as("a"), &kvv1.RangeRequest{Key: []byte("k")}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a read: %v", err)
	}
	watch, err := kvv1.NewWatchServiceClient(p.conn).Watch(as("a"), &kvv1.WatchRequest{Key: []byte("k")})
	if err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a watch: %v", err)
	}
	if p.store.Revision() != revision {
		t.Error("something was applied all the same")
	}
	if err := put("root", "k"); err != nil {
		t.Errorf("another caller: %v", err)
	}
}

// Lists of a batch count by their writes and are refused one by one; the stream goes on.
func TestRateOfBatches(t *testing.T) {
	p, as := tenanted(t, &kvv1.Tenant{RequestsPerSecond: 10, BurstMs: 1000})
	var passed atomic.Int64
	p.core.rates.now = func() time.Time { return time.Unix(1000, passed.Load()) }
	both, err := p.kv().Batch(as("a"))
	if err != nil {
		t.Fatal(err)
	}
	list := &kvv1.WriteBatch{}
	for i := range 20 {
		list.Writes = append(list.Writes, &kvv1.Write{Write: &kvv1.Write_Put{Put: &kvv1.PutRequest{Key: fmt.Append(nil, "k", i)}}})
	}
	for _, step := range []struct {
		after time.Duration
		want  kvv1.ErrorReason
	}{{0, 0}, {0, rateExceeded}, {time.Second, rateExceeded}, {2 * time.Second, 0}} {
		passed.Add(int64(step.after))
		if err := both.Send(&kvv1.BatchRequest{Batch: list}); err != nil {
			t.Fatal(err)
		}
		answer, err := both.Recv()
		if err != nil || answer.GetError().GetReason() != step.want {
			t.Errorf("%v, %v, want %v", answer, err, step.want)
		}
	}
}

// What other pods forward counts on the master, too.
func TestRateOfForwardedWrites(t *testing.T) {
	p, _ := tenanted(t, &kvv1.Tenant{RequestsPerSecond: 1, BurstMs: 2000})
	p.core.rates.now = func() time.Time { return time.Unix(1000, 0) }
	forward := func(user string) error {
		return p.CheckForwarded(&kvv1.Command{
			Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k")}}, Identity: &kvv1.Identity{User: user},
		})
	}
	for i, want := range []kvv1.ErrorReason{0, 0, rateExceeded} {
		if err := forward("a"); refusal.Reason(err) != want {
			t.Errorf("the write %d: %v", i, err)
		}
	}
	if err := forward("root"); err != nil {
		t.Errorf("another's: %v", err)
	}
}

// The quota is refused with its reason and what there is; the metrics show it.
func TestQuotaIsRefused(t *testing.T) {
	p, as := tenanted(t, &kvv1.Tenant{MaxKeys: 1})
	put := func(key string) error {
		_, err := p.kv().Put(as("a"), &kvv1.PutRequest{Key: []byte(key), Value: []byte("v")})
		return err
	}
	if err := put("k1"); err != nil {
		t.Fatal(err)
	}
	code, reason, metadata := info(put("k2"))
	if code != codes.ResourceExhausted || reason != quotaExceeded.String()[len(reasonPrefix):] || metadata["tenant"] != "room" || metadata["limit"] != "1" || metadata["actual"] != "2" {
		t.Errorf("%v %s %v", code, reason, metadata)
	}
	if code, reason, _ := info(put("other")); reason != "PERMISSION_DENIED" {
		t.Errorf("outside of its room: %v %s", code, reason)
	}
	families, err := p.options.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if strings.HasPrefix(f.GetName(), "baton_tenant_") {
				shown[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	for name, want := range map[string]float64{"keys": 1, "bytes": 3, "quota_keys": 1, "quota_bytes": 0, "refused_total": 1} {
		if got := shown["baton_tenant_"+name]; got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// Everybody sees the tenant that it belongs to, and administrators see all.
func TestWhoSeesTenants(t *testing.T) {
	p, as := tenanted(t, &kvv1.Tenant{MaxKeys: 1})
	p.change(t, &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: &kvv1.Tenant{
		Name: "other", Prefix: []byte("o"), Users: []string{"b"}, Rights: kvv1.Permission_KIND_READ,
	}}}})
	client := kvv1.NewAuthServiceClient(p.conn)
	for _, test := range []struct {
		who  string
		req  *kvv1.ListTenantsRequest
		want string
	}{
		{"root", &kvv1.ListTenantsRequest{}, "other room"},
		{"root", &kvv1.ListTenantsRequest{Name: "room"}, "room"},
		{"root", &kvv1.ListTenantsRequest{Name: "none"}, "TENANT_NOT_FOUND"},
		{"root", &kvv1.ListTenantsRequest{Own: true}, "TENANT_NOT_FOUND"},
		{"a", &kvv1.ListTenantsRequest{Own: true}, "room"},
		{"a", &kvv1.ListTenantsRequest{Name: "room"}, "room"},
		{"a", &kvv1.ListTenantsRequest{Name: "other"}, "PERMISSION_DENIED"},
		{"a", &kvv1.ListTenantsRequest{Name: "none"}, "PERMISSION_DENIED"},
		{"a", &kvv1.ListTenantsRequest{}, "PERMISSION_DENIED"},
		{"stranger", &kvv1.ListTenantsRequest{}, "PERMISSION_DENIED"},
	} {
		response, err := client.ListTenants(as(test.who), test.req)
		var names []string
		for _, s := range response.GetTenants() {
			names = append(names, s.GetTenant().GetName())
		}
		got := strings.Join(names, " ")
		if err != nil {
			_, got, _ = info(err)
		}
		if got != test.want {
			t.Errorf("%s asks for %v, and gets %s, want %s", test.who, test.req, got, test.want)
		}
	}
}

// The first tenant is refused until every member is known to have a version with tenants.
//
// Scenario: S26
func TestTheFirstTenantNeedsAllVersions(t *testing.T) {
	one, other := newPod(t, "kv-0"), newPod(t, "kv-1")
	wire(one, other)
	one.store.apply(&kvv1.Command{Command: &kvv1.Command_Auth{Auth: &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: "a"}}}}})
	set := func() error {
		tenant := &kvv1.Tenant{Name: "room", Prefix: []byte("k"), Rights: kvv1.Permission_KIND_READ}
		change := &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: tenant}}}
		_, err := kvv1.NewAuthServiceClient(one.conn).ChangeAuth(within5s(t), &kvv1.ChangeAuthRequest{Change: change})
		return err
	}
	other.log.old = true
	if code, reason, _ := info(set()); reason != "VERSION_TOO_OLD" {
		t.Errorf("with an old pod: %v %s", code, reason)
	}
	if one.store.Access().HasTenants() {
		t.Error("it was added all the same")
	}
	other.log.old = false
	if err := set(); err != nil {
		t.Error(err)
	}
}

// A tenant that is not on this pod yet is not one that is counted.
func TestCountThatHasNotBegun(t *testing.T) {
	p, _ := tenanted(t, &kvv1.Tenant{})
	revision := p.core.access().Revision()
	p.core.awaitCount(t.Context(), "room", revision)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if p.core.awaitCount(ctx, "another", revision+1); ctx.Err() == nil {
		t.Error("it does not wait")
	}
}

// What is slowed down goes by the rate that there is by now.
func TestWhoIsSlowedDownAndTheRateIsRaised(t *testing.T) {
	p, _ := tenanted(t, &kvv1.Tenant{RequestsPerSecond: 1})
	ctx := caller.With(within5s(t), caller.Caller{User: "a", By: caller.ServiceAccount})
	_, room := p.core.tenant(ctx)
	p.core.rates.owe(p.core.access(), room, 3600, 0)
	var looked atomic.Int32
	p.core.rates.now = func() time.Time { looked.Add(1); return time.Now() }
	slowed := make(chan error)
	go func() { slowed <- p.core.slow(ctx, 1, 0) }()
	await(t, "it waits", func() bool { return looked.Load() > 0 })
	raised := proto.Clone(room).(*kvv1.Tenant)
	raised.RequestsPerSecond = 1e6
	p.change(t, &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: raised}}})
	if err := <-slowed; err != nil {
		t.Error(err)
	}
}

// A message of a stream waits for what was owed before it: not for its own cost, which may
// take longer than clients have patience.
func TestALargeMessageComesBeforeItIsPaid(t *testing.T) {
	p, as := tenanted(t, &kvv1.Tenant{BytesPerSecond: 1})
	p.store.apply(&kvv1.Command{
		Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k"), Value: make([]byte, 1<<20)}}, Identity: &kvv1.Identity{Pod: true},
	})
	for i, want := range []codes.Code{codes.OK, codes.ResourceExhausted} {
		scan, err := p.kv().Scan(as("a"), &kvv1.ScanRequest{Range: &kvv1.RangeRequest{Key: []byte("k")}})
		if err == nil {
			_, err = scan.Recv()
		}
		if status.Code(err) != want {
			t.Errorf("the scan %d: %v", i, err)
		}
	}
}

// Keep-alives that clients send anew, since they have waited for long, cost nothing: else
// those of many leases would owe more and more, and renew none.
func TestKeepAlivesThatAreGivenUp(t *testing.T) {
	p, _ := tenanted(t, &kvv1.Tenant{RequestsPerSecond: 10, BurstMs: 1000})
	var now atomic.Int64
	p.core.rates.now = func() time.Time { return time.UnixMilli(1e6 + now.Load()) }
	ctx := caller.With(within5s(t), caller.Caller{User: "a", By: caller.ServiceAccount})
	given, giveUp := context.WithCancel(ctx)
	giveUp()
	renewed := 0
	for range 64 {
		if p.core.slow(given, 1, 0) == nil {
			renewed++
		}
	}
	now.Store(100)
	if err := p.core.slow(ctx, 1, 0); err != nil || renewed != 10 {
		t.Errorf("after %d at once: %v", renewed, err)
	}
}

// A pod whose forwarded write the master has refused lets the next ones wait itself.
func TestRateOnAFollower(t *testing.T) {
	p, as := tenanted(t, &kvv1.Tenant{RequestsPerSecond: 100, BurstMs: 1000})
	p.core.rates.now = func() time.Time { return time.Unix(1000, 0) }
	apply, forwarded := p.log.propose, 0
	p.log.propose = func(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
		if forwarded++; forwarded == 3 {
			return nil, errRate("room", time.Second)
		}
		return apply(ctx, command)
	}
	for i, want := range []codes.Code{codes.OK, codes.OK, codes.ResourceExhausted, codes.ResourceExhausted, codes.ResourceExhausted} {
		if _, err := p.kv().Put(as("a"), &kvv1.PutRequest{Key: []byte("k")}); status.Code(err) != want {
			t.Errorf("the write %d: %v", i, err)
		}
	}
	if forwarded != 3 {
		t.Errorf("%d writes were forwarded", forwarded)
	}
}
