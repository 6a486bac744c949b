package access

import (
	"bytes"

	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// permitsAll says that nothing is asked of a caller: access control is off, or it is a pod.
func (s *State) permitsAll(c caller.Caller) bool { return !s.Enabled() || c.By == caller.Pod }

// Known returns nil if a caller is somebody: a user that there is, with the password
// that it has now, or a pod.
func (s *State) Known(c caller.Caller) error {
	if s.permitsAll(c) {
		return nil
	}
	_, err := s.find(c)
	return err
}

func (s *State) find(c caller.Caller) (*user, error) {
	if c.User == "" {
		return nil, refused(kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS, "access control is on: log in, or show a certificate or a token")
	}
	u, t := s.users[c.User], s.tenants.of(c.User)
	switch {
	case c.By == caller.Password && (u == nil || u.GetGeneration() != c.Generation):
		return nil, refused(kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED, "the token is of a user or a password that is no more: log in again")
	case u == nil && t == nil:
		return nil, refused(kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "there is no user %q", c.User)
	case u == nil:
		return t.member, nil
	}
	return u, nil
}

// Admin refuses a caller without the role "root".
func (s *State) Admin(c caller.Caller) error {
	if s.permitsAll(c) {
		return nil
	}
	u, err := s.find(c)
	if err == nil && !u.root {
		err = refused(kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "this needs the role %q, which %q does not have", Root, c.User)
	}
	return err
}

// HasRole says whether a caller is a user with this role.
func (s *State) HasRole(c caller.Caller, role string) bool {
	u := s.User(c.User)
	return u != nil && has(u.GetRoles(), role)
}

// Read refuses a caller who may not read all of a range.
func (s *State) Read(c caller.Caller, key, end []byte) error { return s.check(c, key, end, false) }

// Write refuses a caller who may not write all of a range.
func (s *State) Write(c caller.Caller, key, end []byte) error { return s.check(c, key, end, true) }

func (s *State) check(c caller.Caller, key, end []byte, write bool) error {
	if s.permitsAll(c) {
		return nil
	}
	u, err := s.find(c)
	if err != nil || u.root {
		return err
	}
	covered, what := u.read, "read"
	if write {
		covered, what = u.write, "write"
	}
	if covered.cover(key, end) {
		return nil
	}
	// Without the keys: whoever sees the error may not be the one who asked.
	return refused(kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED, "the user %q may not %s all of these keys", c.User, what)
}

// Of is the caller that a command carries.
func Of(id *kvv1.Identity) caller.Caller {
	switch {
	case id.GetPod():
		return caller.Caller{By: caller.Pod}
	case id.GetGeneration() != 0:
		return caller.Caller{User: id.GetUser(), By: caller.Password, Generation: id.GetGeneration()}
	}
	return caller.Caller{User: id.GetUser()}
}

// Identity is what a command carries of its caller.
func Identity(c caller.Caller) *kvv1.Identity {
	return &kvv1.Identity{User: c.User, Generation: c.Generation, Pod: c.By == caller.Pod}
}

// Permit refuses a command that its caller may not give, whatever is nested in it,
// and in whichever branch. The writes of a batch stand for themselves: see Writes.
func (s *State) Permit(c caller.Caller, command *kvv1.Command, lease MayWriteLease) error {
	if s.permitsAll(c) {
		return nil
	}
	u, err := s.find(c)
	if err != nil || u.root {
		return err
	}
	p := permit{state: s, caller: c, mayWriteLease: lease}
	for _, r := range command.GetIdentity().GetReads() {
		if err := s.Read(c, r.GetKey(), r.GetRangeEnd()); err != nil {
			return err
		}
	}
	switch m := command.GetCommand().(type) {
	case *kvv1.Command_Put:
		return p.put(m.Put)
	case *kvv1.Command_Delete:
		return p.delete(m.Delete)
	case *kvv1.Command_Txn:
		return p.txn(m.Txn)
	case *kvv1.Command_Batch, *kvv1.Command_Grant:
		return nil
	case *kvv1.Command_Revoke:
		return p.lease(m.Revoke.GetId())
	}
	return s.Admin(c) // The history, users and roles, and what comes later.
}

// MayWriteLease says how many keys a lease has, if the caller may write all of them; a
// lease that is not there has none.
type MayWriteLease func(lease int64) (keys int, err error)

// Writes is Permit for the writes of a batch, one after the other.
type Writes struct{ permit permit }

// Writes permits those of a batch.
func (s *State) Writes(c caller.Caller, lease MayWriteLease) *Writes {
	return &Writes{permit{state: s, caller: c, mayWriteLease: lease}}
}

// Permit refuses a write that the caller may not do.
func (w *Writes) Permit(write *kvv1.Write) error {
	p := &w.permit
	if p.state.permitsAll(p.caller) {
		return nil
	}
	switch w := write.GetWrite().(type) {
	case *kvv1.Write_Put:
		return p.put(w.Put)
	case *kvv1.Write_Delete:
		return p.delete(w.Delete)
	case *kvv1.Write_Txn:
		return p.txn(w.Txn)
	}
	return nil // It is refused for that.
}

// ReadTxn refuses a transaction of which the caller may not do all, for one that does
// not go through the log.
func (s *State) ReadTxn(c caller.Caller, txn *kvv1.TxnRequest) error {
	if s.permitsAll(c) {
		return nil
	}
	p := permit{state: s, caller: c, mayWriteLease: func(int64) (int, error) { return 0, nil }}
	return p.txn(txn)
}

// permit walks a request.
type permit struct {
	state         *State
	caller        caller.Caller
	mayWriteLease MayWriteLease
	leases        map[int64]error // Those that were looked at, and what was said.
	leaseKeys     int             // They have so many, when they were.
}

// maxLeaseKeys is how many keys the leases may have to which a command attaches others,
// of a user without the role "root": all of them are looked at, while everybody waits.
const maxLeaseKeys = 10_000

func (p *permit) put(req *kvv1.PutRequest) error {
	if err := p.state.Write(p.caller, req.GetKey(), nil); err != nil {
		return err
	}
	if lease := req.GetLease(); lease != 0 {
		// Whoever may not end the lease must not hang a key on it either.
		if err := p.lease(lease); err != nil {
			return err
		}
		if p.leaseKeys >= maxLeaseKeys {
			return tooLarge("keys of the leases", maxLeaseKeys, p.leaseKeys)
		}
	}
	if req.GetPrevKv() {
		return p.state.Read(p.caller, req.GetKey(), nil)
	}
	return nil
}

func (p *permit) delete(req *kvv1.DeleteRequest) error {
	if err := p.state.Write(p.caller, req.GetKey(), req.GetRangeEnd()); err != nil {
		return err
	}
	if req.GetPrevKv() {
		return p.state.Read(p.caller, req.GetKey(), req.GetRangeEnd())
	}
	return nil
}

// txn needs all that could be done, in both branches.
func (p *permit) txn(req *kvv1.TxnRequest) error {
	for _, compare := range req.GetCompare() {
		if err := p.state.Read(p.caller, compare.GetKey(), compare.GetRangeEnd()); err != nil {
			return err
		}
	}
	for _, ops := range [][]*kvv1.Op{req.GetSuccess(), req.GetFailure()} {
		for _, op := range ops {
			if err := p.op(op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *permit) op(op *kvv1.Op) error {
	switch o := op.GetOp().(type) {
	case *kvv1.Op_Range:
		key, end := o.Range.GetKey(), o.Range.GetRangeEnd()
		if len(end) > 0 && !fromKey(end) && bytes.Compare(key, end) >= 0 {
			return nil // It has no keys, and only asks whether its revision is there.
		}
		return p.state.Read(p.caller, key, end)
	case *kvv1.Op_Put:
		return p.put(o.Put)
	case *kvv1.Op_Delete:
		return p.delete(o.Delete)
	case *kvv1.Op_Txn:
		return p.txn(o.Txn)
	}
	return nil // It is refused for that.
}

// lease needs write on every key of a lease. It looks once: what the caller may not write
// it cannot take off the lease meanwhile, and what it attaches it may write.
func (p *permit) lease(id int64) error {
	if u, err := p.state.find(p.caller); err != nil || u.root {
		return err
	}
	if said, looked := p.leases[id]; looked {
		return said
	}
	keys, err := p.mayWriteLease(id)
	if p.leases == nil {
		p.leases = map[int64]error{}
	}
	p.leases[id] = err
	p.leaseKeys += keys
	return err
}
