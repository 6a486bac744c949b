package store

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func setTenant(t *kvv1.Tenant) *kvv1.Command {
	t.Rights = kvv1.Permission_KIND_READWRITE
	return auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_SetTenant{SetTenant: &kvv1.SetTenant{Tenant: t}}})
}

func del(key, end string) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Delete{Delete: &kvv1.DeleteRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

// countAll counts as a master does, and says in how many steps.
func (d *driver) countAll(tenant string) (steps int) {
	d.t.Helper()
	for ; ; steps++ {
		step, err := d.s.CountStep(tenant)
		if err != nil {
			d.t.Fatal(err)
		}
		if step == nil {
			return steps
		}
		d.do(auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_CountTenant{CountTenant: step}}))
	}
}

func (d *driver) uses(tenant string, keys, bytes int64) {
	d.t.Helper()
	if got := d.s.TenantUsage()[tenant]; got.Keys != keys || got.Bytes != bytes {
		d.t.Errorf("%s has %d keys and %d bytes, want %d and %d", tenant, got.Keys, got.Bytes, keys, bytes)
	}
}

// What is there before a tenant is counted in small steps, also over keys that are deleted
// but still kept, and what is written meanwhile counts once.
func TestTenantOverData(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	for i := range 40 {
		d.do(put(fmt.Sprintf("a/%02d", i), "12"), put(fmt.Sprintf("b/%02d", i), ""))
	}
	d.do(del("a/10", "a/20"))
	if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
		t.Fatal(err)
	}
	d.do(setTenant(&kvv1.Tenant{Name: "a", Prefix: []byte("a/"), MaxKeys: 31}))
	d.uses("a", 0, 0)
	first, err := d.s.CountStep("a")
	if err != nil || string(first.GetNext()) != "a/" || string(first.GetUntil()) != fmt.Sprintf("a/%02d", countStepKeys) {
		t.Fatalf("%v, %v", first, err)
	}
	step := auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_CountTenant{CountTenant: first}})
	d.do(put("a/000", "before it, in the first step"), step, step, put("a/35", "after it"), put("a/001", ""), del("a/30", ""))
	d.uses("a", int64(countStepKeys)+2, int64(countStepKeys)*6+int64(len("a/000before it, in the first step"))+5)
	if steps := d.countAll("a"); steps < 40/countStepKeys-1 {
		t.Errorf("it took %d steps, of %d keys each", steps, countStepKeys)
	}
	d.uses("a", 31, 29*6-2+int64(len("after it"))+int64(len("a/000before it, in the first step"))+5)
	for i, reason := range []kvv1.ErrorReason{kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED, 0} {
		if got := d.do(put("a/new", "x"))[0].GetError().GetReason(); got != reason {
			t.Errorf("one more key, the %d. time: %v", i+1, got)
		}
		d.do(del("a/35", ""))
	}
}

// While a tenant gets another prefix there is no step: one by both prefixes would be of all
// keys at once.
func TestCountStepWhileThePrefixChanges(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	d.do(put("a", ""), put("b", ""), setTenant(&kvv1.Tenant{Name: "one", Prefix: []byte("a")}))
	d.countAll("one")
	before := d.s.Access()
	after, err := before.Apply(setTenant(&kvv1.Tenant{Name: "one", Prefix: []byte("b")}).GetAuth())
	if err != nil {
		t.Fatal(err)
	}
	d.s.rights.usages.follow(before, after)
	if step, err := d.s.CountStep("one"); step != nil || err != nil {
		t.Errorf("%v, %v", step, err)
	}
	d.s.rights.usages.follow(after, before)
	d.countAll("one")
}

// A write passes if it makes less of what is too much; of a transaction the deletions
// count, and nothing of one that is refused is applied; in a batch the others are.
func TestQuota(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	d.do(setTenant(&kvv1.Tenant{Name: "a", Prefix: []byte("a"), MaxKeys: 2, MaxBytes: 10}), setTenant(&kvv1.Tenant{Name: "b", Prefix: []byte("b"), MaxBytes: 4}))
	d.countAll("a")
	d.countAll("b")
	putOp := func(key, value string) *kvv1.Op {
		return &kvv1.Op{Op: &kvv1.Op_Put{Put: &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)}}}
	}
	delOp := func(key, end string) *kvv1.Op {
		return &kvv1.Op{Op: &kvv1.Op_Delete{Delete: &kvv1.DeleteRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
	}
	txn := func(ops ...*kvv1.Op) *kvv1.Command {
		return &kvv1.Command{Command: &kvv1.Command_Txn{Txn: &kvv1.TxnRequest{Success: ops}}}
	}
	nested := func(ops ...*kvv1.Op) *kvv1.Op {
		return &kvv1.Op{Op: &kvv1.Op_Txn{Txn: &kvv1.TxnRequest{Success: ops}}}
	}
	over := kvv1.ErrorReason_ERROR_REASON_QUOTA_EXCEEDED
	for i, test := range []struct {
		command     *kvv1.Command
		want        kvv1.ErrorReason
		keys, bytes int64
	}{
		{put("a1", "12345678"), 0, 1, 10},
		{put("a1", "123456789"), over, 1, 10},
		{put("a2", ""), over, 1, 10},
		{put("a1", "1234"), 0, 1, 6},
		{put("a2", "12"), 0, 2, 10},
		{txn(putOp("a3", "")), over, 2, 10},
		{txn(delOp("a1", ""), putOp("a3", "1234")), 0, 2, 10},
		{txn(delOp("a2", "a3"), delOp("a", "a3"), nested(putOp("a4", ""), putOp("a5", ""))), over, 2, 10},
		{txn(putOp("b1", "123"), delOp("a", "b")), over, 2, 10},
		{txn(putOp("a2", "1"), putOp("b1", "12"), putOp("c", "123")), 0, 2, 9},
		{setTenant(&kvv1.Tenant{Name: "a", Prefix: []byte("a"), MaxKeys: 1, MaxBytes: 5}), 0, 2, 9},
		{put("a2", "2"), 0, 2, 9},
		{put("a2", "12"), over, 2, 10 - 1},
		{put("a2", ""), 0, 2, 8},
		{del("a3", ""), 0, 1, 2},
	} {
		if got := d.do(test.command)[0].GetError().GetReason(); got != test.want {
			t.Errorf("step %d: %v, want %v", i, got, test.want)
		}
		d.uses("a", test.keys, test.bytes)
	}
	d.uses("b", 1, 4)
	batch := &kvv1.WriteBatch{}
	for _, key := range []string{"b1", "b2", "c"} {
		batch.Writes = append(batch.Writes, &kvv1.Write{Write: &kvv1.Write_Put{Put: &kvv1.PutRequest{Key: []byte(key), Value: []byte("1")}}})
	}
	results := d.do(&kvv1.Command{Command: &kvv1.Command_Batch{Batch: batch}})[0].GetBatch().GetResults()
	if results[0].GetError() != nil || results[1].GetError().GetReason() != over || results[2].GetError() != nil {
		t.Errorf("a batch: %v", results)
	}
}

// Leases that end, and everything that brings a store back, leave the count right; a
// restored backup has it, and what was edited in it is found.
func TestUsageIsKept(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	d.do(setTenant(&kvv1.Tenant{Name: "a", Prefix: []byte("a"), MaxKeys: 5}), &kvv1.Command{Command: &kvv1.Command_Grant{Grant: &kvv1.GrantRequest{Id: 1, TtlSeconds: 5}}})
	d.countAll("a")
	for _, key := range []string{"a1", "a2", "b"} {
		d.do(&kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte(key), Value: []byte("123"), Lease: 1}}})
	}
	d.do(put("a3", "1"))
	d.uses("a", 3, 13)
	for _, end := range []func(){d.close, d.kill} {
		end()
		d.open()
		d.catchUp(d.h.last())
		d.uses("a", 3, 13)
	}
	path := filepath.Join(t.TempDir(), "backup")
	if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
		t.Fatal(err)
	}
	save(t, d.s, path)
	d.do(&kvv1.Command{Command: &kvv1.Command_Revoke{Revoke: &kvv1.RevokeRequest{Id: 1}}})
	d.uses("a", 1, 3)
	dir := t.TempDir()
	if _, err := RestoreFile(context.Background(), path, dir, []byte("members"), nil); err != nil {
		t.Fatal(err)
	}
	restored, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if got := restored.TenantUsage()["a"]; got.Keys != 3 || got.Bytes != 13 {
		t.Errorf("restored: %+v", got)
	}
	closeChecked(t, restored)
	if got := format(t, dir); got != tenantsFormat {
		t.Errorf("its format is %d", got)
	}
	for edit, want := range map[string]string{`"keys":4`: "has 3 keys", `"keys":99`: "what the tenant", `"sky":3`: "the state says 0"} {
		edited(t, dir, `"keys":3`, edit)
		s, err := Open(Options{Dir: dir})
		if err == nil {
			err = s.Check(context.Background())
			_ = s.Close()
		}
		if refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_CORRUPT || !strings.Contains(err.Error(), want) {
			t.Errorf("with %s: %v", edit, err)
		}
		edited(t, dir, edit, `"keys":3`)
	}
}

// edited changes the state in a file, and seals it anew.
func edited(t *testing.T, dir, from, to string) {
	t.Helper()
	db, err := openFile(databaseOf(dir), false)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		record := strings.Replace(string(tx.Bucket(bucketMeta).Get(stateKey)[checksumBytes:]), from, to, 1)
		return tx.Bucket(bucketMeta).Put(stateKey, seal(stateKey, append(make([]byte, checksumBytes), record...)))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
