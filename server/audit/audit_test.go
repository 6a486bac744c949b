package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// sink is what a trail is written to.
type sink struct {
	mu    sync.Mutex
	text  bytes.Buffer
	err   error
	block chan struct{} // nil: it does not
}

func (s *sink) Write(p []byte) (int, error) {
	if s.block != nil {
		<-s.block
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	return s.text.Write(p)
}

func (s *sink) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *sink) lines(t *testing.T) (all []map[string]any) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.text.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, r)
	}
	return all
}

func value(c prometheus.Counter) float64 {
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

func open(t *testing.T, rule string, to *sink, change ...func(*Options)) *Trail {
	t.Helper()
	parsed, err := ParseRule(rule)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Rule: parsed, Out: to, Pod: "kv-0"}
	for _, f := range change {
		f(&o)
	}
	trail, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return trail
}

const (
	putMethod   = "/baton.kv.v1.KVService/Put"
	rangeMethod = "/baton.kv.v1.KVService/Range"
)

func put(key string) Call {
	return Call{
		Method: putMethod, Who: caller.Caller{User: "alice", By: caller.Certificate}, From: "192.0.2.1:5",
		Request:  &kvv1.PutRequest{Key: []byte(key), Value: []byte("SECRET"), Lease: 7},
		Response: &kvv1.PutResponse{Header: &kvv1.ResponseHeader{Revision: 42}},
		Begun:    time.Now(),
	}
}

func TestRecord(t *testing.T) {
	to := &sink{}
	trail := open(t, "all", to)
	trail.Note(put("a"))
	trail.Note(put("\xff\x00"))
	trail.Note(put(strings.Repeat("k", 4096)))
	txn := &kvv1.TxnRequest{
		Compare: []*kvv1.Compare{{Key: []byte("c"), Target: &kvv1.Compare_Value{Value: []byte("SECRET")}}},
		Success: []*kvv1.Op{{Op: &kvv1.Op_Txn{Txn: &kvv1.TxnRequest{Failure: []*kvv1.Op{{Op: &kvv1.Op_Delete{Delete: &kvv1.DeleteRequest{Key: []byte("d"), RangeEnd: []byte("e")}}}}}}}},
	}
	trail.Note(Call{Method: "/baton.kv.v1.KVService/Txn", Request: txn, Response: &kvv1.TxnResponse{Header: &kvv1.ResponseHeader{Revision: 43}}, Begun: time.Now()})
	trail.Note(Call{
		Method: "/etcdserverpb.Auth/UserAdd", Request: &pb.AuthUserAddRequest{Name: "bob", Password: "SECRET", HashedPassword: "SECRET"},
		Response: &pb.AuthUserAddResponse{Header: &pb.ResponseHeader{Revision: 44}}, Begun: time.Now(),
	})
	many := &kvv1.TxnRequest{}
	for i := range 100 {
		many.Success = append(many.Success, &kvv1.Op{Op: &kvv1.Op_Put{Put: &kvv1.PutRequest{Key: fmt.Appendf(nil, "%d", i)}}})
	}
	trail.Note(Call{Method: "/baton.kv.v1.KVService/Txn", Request: many, Err: status.Error(codes.Internal, "SECRET"), Begun: time.Now()})
	batch := &kvv1.WriteBatchResult{Header: &kvv1.ResponseHeader{Revision: 45}, Results: []*kvv1.WriteResult{{}, {Result: &kvv1.WriteResult_Error{Error: &kvv1.Error{Message: "SECRET"}}}}}
	trail.Note(Call{Method: "/baton.kv.v1.KVService/Batch", Request: &kvv1.WriteBatch{}, Response: batch, Begun: time.Now()})
	tenant := &kvv1.Tenant{Name: "room", Users: []string{"u"}, Namespaces: []string{"n"}, Prefix: []byte("p/")}
	trail.Note(Call{Method: "/baton.kv.v1.AuthService/ChangeAuth", Begun: time.Now(), Request: &kvv1.ChangeAuthRequest{
		Change: &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: tenant}}},
	}})
	trail.Close()
	lines := to.lines(t)
	if strings.Contains(to.text.String(), "SECRET") {
		t.Errorf("a value, a password or an error's text is in the trail: %s", to.text.String())
	}
	get := func(i int, field string) string {
		text, err := json.Marshal(lines[i][field])
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, want := range []struct {
		line        int
		field, text string
	}{
		{0, "pod", `"kv-0"`}, {0, "caller", `{"address":"192.0.2.1:5","proof":"certificate","user":"alice"}`},
		{0, "method", `"` + putMethod + `"`}, {0, "keys", `[{"key":"a"}]`}, {0, "lease", "7"},
		{0, "outcome", `"OK"`}, {0, "revision", "42"}, {0, "succeeded", "null"},
		{1, "keys", `[{"encoding":"base64","key":"/wA="}]`},
		{3, "succeeded", "false"}, {3, "revision", "43"},
		{4, "names", `["bob"]`}, {4, "revision", "44"},
		{5, "outcome", `"Internal"`}, {5, "more_keys", "68"},
		{6, "refused", "1"}, {6, "revision", "45"},
		{7, "keys", `[{"end":"p0","key":"p/"}]`},
	} {
		if got := get(want.line, want.field); got != want.text {
			t.Errorf("line %d, %s: %s, want %s", want.line, want.field, got, want.text)
		}
	}
	for _, name := range []string{"room", "u", "n"} {
		if !strings.Contains(get(7, "names"), `"`+name+`"`) {
			t.Errorf("whom a tenant is for: %s", get(7, "names"))
		}
	}
	if keys := get(2, "keys"); len(keys) > 2*maxNameBytes || !strings.Contains(keys, `"cut":true`) {
		t.Errorf("a long key: %s", keys)
	}
	if keys := get(3, "keys"); !strings.Contains(keys, `{"key":"c"}`) || !strings.Contains(keys, `{"end":"e","key":"d"}`) {
		t.Errorf("a transaction's keys: %s", keys)
	}
}

func TestRules(t *testing.T) {
	get := func(key, end string) Call {
		return Call{Method: rangeMethod, Request: &kvv1.RangeRequest{Key: []byte(key), RangeEnd: []byte(end)}, Begun: time.Now()}
	}
	denied := get("b", "")
	denied.Err = status.Error(codes.PermissionDenied, "no")
	lock := func(name string) Call {
		return Call{Method: "/v3lockpb.Lock/Lock", Request: &v3lockpb.LockRequest{Name: []byte(name)}, Begun: time.Now()}
	}
	nobody := Call{Method: "/etcdserverpb.KV/Range", Request: &pb.RangeRequest{Key: []byte("b")}, Err: rpctypes.ErrGRPCUserEmpty, Begun: time.Now()}
	guess := Call{Method: "/etcdserverpb.Auth/Authenticate", Request: &pb.AuthenticateRequest{Name: "b"}, Err: rpctypes.ErrGRPCAuthFailed, Begun: time.Now()}
	tenant := func(prefix string) Call {
		set := &kvv1.SetTenant{Tenant: &kvv1.Tenant{Name: "shop", Prefix: []byte(prefix)}}
		request := &kvv1.ChangeAuthRequest{Change: &kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: set}}}
		return Call{Method: "/baton.kv.v1.AuthService/ChangeAuth", Request: request, Begun: time.Now()}
	}
	revoke := Call{Method: "/etcdserverpb.Lease/LeaseRevoke", Request: &pb.LeaseRevokeRequest{ID: 7}, Begun: time.Now()}
	snapshot := Call{Method: "/etcdserverpb.Maintenance/Snapshot", Request: &pb.SnapshotRequest{}, Begun: time.Now()}
	for name, test := range map[string]struct {
		call Call
		in   string // the rules that take it
	}{
		"a write":                     {put("b"), "writes all"},
		"a write of the prefix":       {put("a/1"), "writes all prefix:a/"},
		"a read":                      {get("b", ""), "all"},
		"a read of the prefix":        {get("a/", ""), "all prefix:a/"},
		"a range in the prefix":       {get("a/b", "a/c"), "all prefix:a/"},
		"a range over the prefix":     {get("0", "z"), "all prefix:a/"},
		"a range up to the prefix":    {get("0", "a/"), "all"},
		"a range after the prefix":    {get("a0", "z"), "all"},
		"all keys":                    {get("", "\x00"), "all prefix:a/"},
		"from a key after the prefix": {get("b", "\x00"), "all"},
		"who may not":                 {denied, "writes all prefix:a/"},
		"who is nobody, to etcd":      {nobody, "writes all prefix:a/"},
		"a wrong password, to etcd":   {guess, "writes all prefix:a/"},
		"a lock of the prefix":        {lock("a/b"), "writes all prefix:a/"},
		"a lock whose key has it":     {lock("a"), "writes all prefix:a/"},
		"another lock":                {lock("b"), "writes all"},
		"a lock without a name":       {lock(""), "writes all"},
		"a tenant over the prefix":    {tenant("a"), "writes all prefix:a/"},
		"another tenant":              {tenant("b/"), "writes all"},
		"a lease, and its keys":       {revoke, "writes all prefix:a/"},
		"a copy of everything":        {snapshot, "writes all prefix:a/"},
	} {
		for _, rule := range []string{"writes", "all", "prefix:a/"} {
			to := &sink{}
			trail := open(t, rule, to)
			trail.Note(test.call)
			trail.Close()
			want := strings.Contains(" "+test.in+" ", " "+rule+" ")
			if got := len(to.lines(t)) == 1; got != want {
				t.Errorf("%s in the trail of %s: %t", name, rule, got)
			}
		}
	}
	for _, text := range []string{"", "some", "prefix:", "Writes"} {
		if _, err := ParseRule(text); err == nil {
			t.Errorf("%q is a rule", text)
		}
	}
	var none *Trail
	none.Note(put("a"))
	none.Close()
	if off, err := Open(Options{}); off != nil || err != nil || none.Takes(putMethod) {
		t.Errorf("%v, %v", off, err)
	}
}

// A sink that blocks holds up nobody: what does not fit is counted, and the trail
// says how much is missing.
func TestBlockedSink(t *testing.T) {
	to := &sink{block: make(chan struct{})}
	var log bytes.Buffer
	trail := open(t, "all", to, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	const calls = maxQueued + 100
	for range calls {
		trail.Note(put("k")) // It would hang.
	}
	dropped := value(trail.dropped.WithLabelValues(slowSink))
	if dropped < 99 || dropped > 100 {
		t.Errorf("%v records are dropped", dropped)
	}
	if n := strings.Count(log.String(), "the audit trail has a gap"); n != 1 {
		t.Errorf("%d lines in the log: %s", n, log.String())
	}
	close(to.block)
	trail.Close()
	missing, written := 0.0, 0
	for _, line := range to.lines(t) {
		if n, ok := line["dropped"].(float64); ok {
			missing += n
		} else {
			written++
		}
	}
	if missing != dropped || written+int(missing) != calls || int(value(trail.written)) != written {
		t.Errorf("%v are missing, %d written of %d", missing, written, calls)
	}
}

// A sink that fails, as a full disk does, is said once, and written to again.
func TestFailingSink(t *testing.T) {
	to := &sink{err: syscall.ENOSPC}
	var log bytes.Buffer
	trail := open(t, "all", to, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	for range 10 {
		trail.Note(put("k"))
	}
	for value(trail.dropped.WithLabelValues(badSink)) < 10 {
		time.Sleep(time.Millisecond)
	}
	to.set(nil)
	trail.Note(put("after"))
	trail.Close()
	lines := to.lines(t)
	if len(lines) != 2 || lines[0]["dropped"] != 10.0 || lines[1]["keys"] == nil {
		t.Errorf("%v", lines)
	}
	if n := strings.Count(log.String(), "no space left"); n != 1 {
		t.Errorf("%d lines in the log: %s", n, log.String())
	}
}

// The file is its owner's, does not grow for ever, and goes on where it was.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(`{"half":`), 0o600); err != nil {
		t.Fatal(err)
	}
	small := func(o *Options) { o.File, o.MaxBytes = path, 1000 }
	trail := open(t, "all", nil, small)
	for range 30 {
		trail.Note(put("k"))
	}
	trail.Close()
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 1+keptFiles {
		t.Errorf("%v, %v", names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || len(text) == 0 || len(text) > 1000 || text[len(text)-1] != '\n' {
			t.Errorf("%s: %d bytes, %v", name, len(text), err)
		}
	}
	torn := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(torn, []byte(`{"half":`), 0o600); err != nil {
		t.Fatal(err)
	}
	trail = open(t, "all", nil, func(o *Options) { o.File = torn })
	trail.Note(put("k"))
	trail.Close()
	text, err := os.ReadFile(torn)
	if err != nil || strings.Count(string(text), "\n") != 2 || !strings.HasPrefix(string(text), "{\"half\":\n{") {
		t.Errorf("%q, %v", text, err)
	}
	link := filepath.Join(t.TempDir(), "audit.log")
	if err := os.Symlink(torn, link); err != nil {
		t.Fatal(err)
	}
	rule, _ := ParseRule("all")
	for _, bad := range []string{link, t.TempDir()} {
		if _, err := Open(Options{Rule: rule, File: bad}); err == nil {
			t.Errorf("%s is written to", bad)
		} else if bad == link && !errors.Is(err, syscall.ELOOP) {
			t.Error(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
