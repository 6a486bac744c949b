package store

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

func auth(change *kvv1.AuthChange) *kvv1.Command {
	return &kvv1.Command{Command: &kvv1.Command_Auth{Auth: change}, Identity: &kvv1.Identity{Pod: true}}
}

func addUser(name string) *kvv1.Command {
	return auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: name, PasswordHash: []byte("hash")}}})
}

func grantRole(user, role string) *kvv1.Command {
	return auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: user, Role: role}}})
}

// withUsers are the commands that turn access control on, with users who may do everything.
func withUsers(users ...string) []*kvv1.Command {
	commands := []*kvv1.Command{addUser(access.Root), grantRole(access.Root, access.Root)}
	for _, user := range users {
		commands = append(commands, addUser(user), grantRole(user, access.Root))
	}
	return append(commands, auth(&kvv1.AuthChange{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{TokenKey: []byte("key")}}}))
}

// by makes a command a user's.
func by(user string, command *kvv1.Command) *kvv1.Command {
	command.Identity = &kvv1.Identity{User: user}
	return command
}

func format(t *testing.T, dir string) int {
	t.Helper()
	db, err := openFile(filepath.Join(dir, FileName), true)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var st state
	if err := db.View(func(tx *bbolt.Tx) (err error) { st, _, err = loadState(tx); return err }); err != nil {
		t.Fatal(err)
	}
	return st.Format
}

// A version without users must not open data that has some, and serve everybody; without
// users it still can.
func TestFormatOfAccess(t *testing.T) {
	dir := tempDir(t)
	for _, step := range []struct {
		command *kvv1.Command
		format  int
	}{{put("k", "v"), formatVersion}, {addUser("a"), accessFormat}} {
		s, err := Open(Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s.Apply(s.Applied()+1, 1, []*kvv1.Command{step.command})
		closeChecked(t, s)
		if got := format(t, dir); got != step.format {
			t.Errorf("after %v the format is %d, want %d", step.command, got, step.format)
		}
	}
}

// The format is the file's before the change is answered, and stays so when what was there
// before it is flushed: a crash in between leaves no file that an earlier version opens.
func TestFormatBeforeTheFlush(t *testing.T) {
	dir := tempDir(t)
	s, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer closeChecked(t, s)
	crashed := func(when string) {
		t.Helper()
		copied := tempDir(t)
		content, err := os.ReadFile(filepath.Join(dir, FileName))
		if err == nil {
			err = os.WriteFile(filepath.Join(copied, FileName), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := format(t, copied); got != accessFormat {
			t.Errorf("%s the format is %d", when, got)
		}
	}
	s.Apply(1, 1, []*kvv1.Command{put("k", "v")})
	begun := false
	s.setup.committed = func(string, int) { // The flush has begun, with the state of before.
		if !begun {
			begun = true
			s.Apply(2, 1, []*kvv1.Command{addUser("a")})
		}
	}
	if err := s.Flush(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if at := s.Durable().Index; at != 1 {
		t.Fatalf("the file is at %d: the flush has more than it should", at)
	}
	crashed("with the user not flushed")
	s.setup.committed = nil
	if err := s.Flush(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	crashed("with the user")
}

// Users and roles are in backups, and what was flipped in them is found.
func TestBackupOfAccess(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	d.do(withUsers("a")...)
	path := filepath.Join(t.TempDir(), "backup")
	if err := d.s.Flush(context.Background(), d.s.Applied()); err != nil {
		t.Fatal(err)
	}
	save(t, d.s, path)
	dir := t.TempDir()
	if _, err := RestoreFile(context.Background(), path, dir, []byte("members"), nil); err != nil {
		t.Fatal(err)
	}
	restored, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(restored.Access().Encode(), d.s.Access().Encode()) {
		t.Errorf("restored %v", restored.Access().Proto())
	}
	closeChecked(t, restored)
	db, err := openFile(filepath.Join(dir, FileName), false)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		record := bytes.Replace(tx.Bucket(bucketMeta).Get(accessKey), []byte("hash"), []byte("mine"), 1)
		return tx.Bucket(bucketMeta).Put(accessKey, seal(accessKey, record))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(Options{Dir: dir}); err == nil || refusal.Reason(err) != kvv1.ErrorReason_ERROR_REASON_CORRUPT {
		t.Errorf("with another hash of a password, sealed anew: %v, %v", s, err)
	}
}

// The pods compare users and roles, too.
func TestDigestHasAccess(t *testing.T) {
	one, other := newDriver(t, newHistory(), 0), newDriver(t, newHistory(), 0)
	one.do(addUser("a"))
	other.do(addUser("b"))
	_, of := one.s.Digest()
	if _, theirs := other.s.Digest(); of == theirs {
		t.Error("other users, and the same digest")
	}
}

// Nobody is given the answer to another's request, by whatever id, nor to one of before
// access control was on; and nothing is done twice for that.
func TestRequestIDsBelongToUsers(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	id := &kvv1.RequestId{ClientId: bytes.Repeat([]byte{7}, clientIDBytes), Sequence: 1, KnownRevision: 1}
	request := func(value string, id *kvv1.RequestId) *kvv1.Command {
		return &kvv1.Command{Command: &kvv1.Command_Put{Put: &kvv1.PutRequest{Key: []byte("k"), Value: []byte(value), PrevKv: true, RequestId: id}}}
	}
	d.do(put("k", "secret"))
	d.do(request("open", id))
	d.do(withUsers("a", "b")...)
	if e := d.do(by("a", request("open", id)))[0].GetError(); e.GetReason() != kvv1.ErrorReason_ERROR_REASON_REQUEST_ID_EXPIRED {
		t.Errorf("a request of before: %v", e)
	}
	id = &kvv1.RequestId{ClientId: id.ClientId, Sequence: 2, KnownRevision: d.s.Revision()}
	first := d.do(by("a", request("a", id)))[0].GetPut()
	if again := d.do(by("a", request("a", id)))[0].GetPut(); !again.GetHeader().GetReplayed() || again.GetHeader().GetRevision() != first.GetHeader().GetRevision() {
		t.Errorf("repeated: %v", again)
	}
	if theirs := d.do(by("b", request("b", id)))[0].GetPut(); theirs.GetHeader().GetReplayed() || string(theirs.GetPrevKv().GetValue()) != "a" {
		t.Errorf("another's request with the same id: %v", theirs)
	}
}

// Who reads must be somebody, wherever the read comes from.
func TestReadsAreChecked(t *testing.T) {
	d := newDriver(t, newHistory(), 0)
	d.do(append(withUsers("a"), addUser("b"))...)
	everything := &kvv1.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	as := func(user string) context.Context { return caller.With(t.Context(), caller.Caller{User: user}) }
	for user, want := range map[string]kvv1.ErrorReason{
		"a": 0, "b": kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "c": kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
		"": kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS,
	} {
		_, err := d.s.Range(as(user), everything)
		scanned := d.s.Scan(as(user), everything, func(int64, []*kvv1.KeyValue) error { return nil })
		_, compared := d.s.Txn(as(user), &kvv1.TxnRequest{Compare: []*kvv1.Compare{{
			Key: []byte{0}, RangeEnd: []byte{0}, Operator: kvv1.Compare_OPERATOR_EQUAL, Target: &kvv1.Compare_Version{},
		}}})
		w, err2 := d.s.Watch(&kvv1.WatchRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if err2 != nil {
			t.Fatal(err2)
		}
		w.For(caller.From(as(user)))
		_, _, watched := w.Poll(t.Context())
		w.Close()
		for what, err := range map[string]error{"range": err, "scan": scanned, "txn": compared, "watch": watched} {
			if refusal.Reason(err) != want {
				t.Errorf("%s of %q: %v, want %v", what, user, err, want)
			}
		}
	}
}
