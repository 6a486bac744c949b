package store

import (
	"go.etcd.io/bbolt"

	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// This file holds the writes of one revision. A transaction first checks all
// that can be refused, then writes, then commits; what was written before the
// commit is above the newest revision, so no reader sees it.

// maxKeyBytes is what fits into the file beside the id of a lease. No API lets such a
// key through; from another pod's log it must not get to where only the flush, on
// every pod, finds that it cannot be written.
const maxKeyBytes = bbolt.MaxKeySize - leaseIDBytes

// checkPut refuses a put that cannot be done.
func (a *applier) checkPut(req *kvv1.PutRequest) error {
	if len(req.GetKey()) == 0 {
		return errInvalid("key", "a key must not be empty")
	}
	if len(req.Key) > maxKeyBytes {
		return errTooLarge("key", maxKeyBytes, len(req.Key))
	}
	if req.Lease != 0 && !req.IgnoreLease && !a.store.leases.has(req.Lease) {
		return refusal.LeaseNotFound(req.Lease)
	}
	if !req.IgnoreValue && !req.IgnoreLease {
		return nil
	}
	_, found, err := a.view.get(req.Key, a.st.Revision)
	if err == nil && !found {
		return &refusal.Error{
			Reason:  kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND,
			Message: "ignore_value and ignore_lease need a key that exists",
		}
	}
	return err
}

// put writes a key that checkPut has passed, and returns what was there before
// when the request asks for it.
func (a *applier) put(req *kvv1.PutRequest, revision int64) (*kvv1.KeyValue, error) {
	n := a.table.find(req.Key)
	prev, err := a.previous(n, req.Key)
	if err != nil {
		return nil, err
	}
	existed := prev.exists()
	if existed && (req.PrevKv || req.IgnoreValue) {
		if err := a.view.complete(req.Key, &prev); err != nil {
			return nil, err
		}
	}
	ver := version{create: revision, version: 1, lease: req.Lease, value: req.Value}
	if existed {
		ver.create, ver.version = prev.create, prev.version+1
		if req.IgnoreValue {
			ver.value = prev.value
		}
		if req.IgnoreLease {
			ver.lease = prev.lease
		}
	}
	var before *kvv1.KeyValue
	if existed && req.PrevKv {
		before = prev.keyValue(req.Key, false)
	}
	return before, a.insert(n, req.Key, &prev, &ver, revision)
}

// previous finds the newest version of a key, even one whose revision is not
// committed yet; n is the key's node in the active table. The zero version: the key
// never existed, as far as is known.
func (a *applier) previous(n *node, key []byte) (version, error) {
	if n != nil {
		return n.newest.Load().read()
	}
	for _, t := range a.view.tables[1:] {
		if n := t.find(key); n != nil {
			return n.newest.Load().read()
		}
	}
	return a.view.onDisk(key, a.view.base)
}

// insert adds the version that follows prev to n, or to a new node.
func (a *applier) insert(n *node, key []byte, prev, ver *version, revision int64) error {
	if err := a.account(key, prev, ver); err != nil {
		return err
	}
	a.moveLease(key, prev.lease, ver.lease)
	ver.place = place{revision, uint32(len(a.changes))}
	ver.prev, ver.prevDeleted = prev.place, prev.place.revision > 0 && !prev.exists()
	record := appendLogRecord(a.table.kv.alloc(maxLogHeader+len(key)+len(ver.value)), key, ver)
	a.changes = append(a.changes, a.table.add(n, ver.place, record))
	return nil
}

// remove writes the deletion of a key that exists.
func (a *applier) remove(key []byte, prev *version, revision int64) error {
	return a.insert(a.table.find(key), key, prev, &version{}, revision)
}

// checkDelete refuses a deletion whose answer would be too large.
func (a *applier) checkDelete(req *kvv1.DeleteRequest) error {
	if len(req.GetKey()) == 0 {
		return errInvalid("key", "a key must not be empty")
	}
	if !req.PrevKv {
		return nil
	}
	size := 0
	err := a.view.ascend(newSpan(req.Key, req.RangeEnd), a.st.Revision, func(key []byte, ver *version) (bool, error) {
		if err := a.view.complete(key, ver); err != nil {
			return false, err
		}
		size += len(key) + len(ver.value) + entryOverhead
		return size <= MaxPageBytes, nil
	})
	if err == nil && size > MaxPageBytes {
		err = errTooLarge("bytes of previous values (delete without prev_kv, or a smaller range)", MaxPageBytes, size)
	}
	return err
}

// delete removes the keys of a range. It reads at the revision that it writes:
// an operation sees what those before it in its transaction did.
func (a *applier) delete(req *kvv1.DeleteRequest, revision int64) (*kvv1.DeleteResponse, error) {
	resp := &kvv1.DeleteResponse{}
	err := a.view.ascend(newSpan(req.Key, req.RangeEnd), revision, func(key []byte, ver *version) (bool, error) {
		resp.Deleted++
		if req.PrevKv {
			if err := a.view.complete(key, ver); err != nil {
				return false, err
			}
			resp.PrevKvs = append(resp.PrevKvs, ver.keyValue(key, false))
		}
		return true, a.remove(key, ver, revision)
	})
	return resp, err
}

// commit makes what was written since the last commit one revision.
func (a *applier) commit() {
	if len(a.changes) == 0 {
		return
	}
	a.digest.ResetWithSeed(a.st.Hash)
	for _, c := range a.changes {
		_, _ = a.digest.Write(c.record[bodyAt:]) // Never fails.
	}
	a.st.Hash = a.digest.Sum64()
	a.st.Revision++
	for _, c := range a.changes {
		sealLogRecord(c.place, c.record, a.st.Hash)
	}
	a.table.appendLog(a.st.Revision, a.changes)
	clear(a.changes)
	a.changes = a.changes[:0]
}
