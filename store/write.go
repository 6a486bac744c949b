package store

import (
	"bytes"

	"github.com/cespare/xxhash/v2"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// This file holds the writes of one revision. A transaction first checks all
// that can be refused, then writes, then commits; what was written before the
// commit is above the newest revision, so no reader sees it.

// checkPut refuses a put that cannot be done.
func (a *applier) checkPut(req *kvv1.PutRequest) error {
	if len(req.GetKey()) == 0 {
		return errInvalid("key", "a key must not be empty")
	}
	if req.Lease != 0 && !req.IgnoreLease && !a.store.leases.has(req.Lease) {
		return errLeaseNotFound(req.Lease)
	}
	if !req.IgnoreValue && !req.IgnoreLease {
		return nil
	}
	_, found, err := a.view.get(appendKeyPrefix(nil, req.Key), a.st.Revision)
	if err == nil && !found {
		return &Error{
			Reason:  kvv1.ErrorReason_ERROR_REASON_KEY_NOT_FOUND,
			Message: "ignore_value and ignore_lease need a key that exists",
		}
	}
	return err
}

// put writes a key that checkPut has passed, and returns what was there before
// when the request asks for it.
func (a *applier) put(req *kvv1.PutRequest, revision int64) (*kvv1.KeyValue, error) {
	a.target = appendVersionKey(a.target[:0], req.Key, revision)
	prev, existed, err := a.previous(a.target)
	if err != nil {
		return nil, err
	}
	ver := version{revision: revision, create: revision, version: 1, lease: req.Lease, value: req.Value}
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
	a.moveLease(keyPrefix(a.target), prev.lease, ver.lease)
	a.insert(a.target, &ver)
	return before, nil
}

// previous finds the place of target in the active table, and the newest
// version of its key.
func (a *applier) previous(target []byte) (version, bool, error) {
	prefix := keyPrefix(target)
	n := a.table.kv.find(target, &a.at)
	if n != nil && bytes.HasPrefix(n.key, prefix) {
		return readExisting(n.key, n.value)
	}
	for _, t := range a.view.tables[1:] {
		if n := t.find(prefix); n != nil {
			return readExisting(n.key, n.value)
		}
	}
	a.view.target = append(a.view.target[:0], target...)
	return a.view.getDisk(prefix)
}

// insert adds a version at the place that previous found.
func (a *applier) insert(target []byte, ver *version) {
	list := a.table.kv
	memory := list.alloc(len(target) + maxVersionHeader + len(ver.value))
	memory = append(memory, target...)
	key := memory[:len(target):len(target)]
	record := appendVersion(memory[len(target):], key, ver)
	n := list.insert(&a.at, key, record)
	a.table.newest[xxhash.Sum64(keyPrefix(key))] = n
	a.changes = append(a.changes, change{versionKey: key, record: record})
}

// remove writes the tombstone of a key that exists.
func (a *applier) remove(prefix []byte, prev *version, revision int64) {
	a.moveLease(prefix, prev.lease, 0)
	a.target = appendRevision(append(a.target[:0], prefix...), revision)
	a.table.kv.find(a.target, &a.at)
	a.insert(a.target, &version{revision: revision})
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
			resp.PrevKvs = append(resp.PrevKvs, ver.keyValue(userKey(key), false))
		}
		a.remove(keyPrefix(key), ver, revision)
		return true, nil
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
		_, _ = a.digest.Write(c.versionKey) // Never fails.
		_, _ = a.digest.Write(c.record)
	}
	a.st.Hash = a.digest.Sum64()
	a.st.Revision++
	a.table.appendLog(a.st.Revision, a.st.Hash, a.changes)
	clear(a.changes)
	a.changes = a.changes[:0]
}
