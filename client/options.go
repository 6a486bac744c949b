package client

import "time"

// ReadOption says what to read, or how fresh it must be. Without any, a read is of
// the newest revision, and linearizable: it sees every write that was acknowledged
// before it began. Of two options for the same thing the later one counts.
type ReadOption func(*readOptions)

type readOptions struct {
	local        bool
	maxStaleness time.Duration
	minRevision  int64
	revision     int64
	limit        int64
	reverse      bool
	keysOnly     bool
}

// LocalRead reads whatever the pod has that happens to be asked.
func LocalRead() ReadOption { return func(o *readOptions) { o.local = true } }

// MaxStaleness reads a copy that is at most so old (at least 1 ms); 0: it is as if
// it were not given. It excludes LocalRead.
func MaxStaleness(age time.Duration) ReadOption {
	return func(o *readOptions) { o.maxStaleness = age }
}

// MinRevision makes the pod wait until it has this revision; 0: it does not wait. A
// pod of another cluster refuses with [ErrOtherCluster].
func MinRevision(revision int64) ReadOption {
	return func(o *readOptions) { o.minRevision = revision }
}

// AtRevision reads the keys as they were at this revision; 0: as they are.
func AtRevision(revision int64) ReadOption {
	return func(o *readOptions) { o.revision = revision }
}

// Limit is the most keys to give. 0: of Range a page of 1,000; of Scan all.
func Limit(keys int64) ReadOption { return func(o *readOptions) { o.limit = keys } }

// Reverse goes from the last key down.
func Reverse() ReadOption { return func(o *readOptions) { o.reverse = true } }

// KeysOnly leaves the values out.
func KeysOnly() ReadOption { return func(o *readOptions) { o.keysOnly = true } }

// WriteOption changes a put; WithPrevKV, a delete as well.
type WriteOption func(*writeOptions)

type writeOptions struct {
	prevKV               bool
	lease                int64
	keepLease, keepValue bool
}

// WithPrevKV asks for what was there before.
func WithPrevKV() WriteOption { return func(o *writeOptions) { o.prevKV = true } }

// WithLease is the id of the lease that the key ends with; 0: none.
func WithLease(id int64) WriteOption { return func(o *writeOptions) { o.lease = id } }

// KeepLease leaves the key with the lease that it has; the key must exist, or the
// put is refused with [ErrNotFound].
func KeepLease() WriteOption { return func(o *writeOptions) { o.keepLease = true } }

// KeepValue leaves the key with the value that it has, as KeepLease with its lease.
func KeepValue() WriteOption { return func(o *writeOptions) { o.keepValue = true } }

// WatchOption says which changes to watch. Without any, a watch is of every change
// from now on.
type WatchOption func(*watchOptions)

type watchOptions struct {
	revision          int64
	prevKV            bool
	noPuts, noDeletes bool
	progress          time.Duration
}

// FromRevision is the first revision of interest; 0: what comes after the call,
// which takes a read to find out, and after everything that this client has seen.
func FromRevision(revision int64) WatchOption {
	return func(o *watchOptions) { o.revision = revision }
}

// WatchPrevKV asks for what was there before each change.
func WatchPrevKV() WatchOption { return func(o *watchOptions) { o.prevKV = true } }

// NoPuts leaves puts out.
func NoPuts() WatchOption { return func(o *watchOptions) { o.noPuts = true } }

// NoDeletes leaves deletes out.
func NoDeletes() WatchOption { return func(o *watchOptions) { o.noDeletes = true } }

// Progress is how often to say how far the watch is when nothing changes; 0 means
// 1 s, the least is 100 ms. A pod that is silent for two and a half times as long is
// taken for hung. With thousands of watches make it longer.
func Progress(interval time.Duration) WatchOption {
	return func(o *watchOptions) { o.progress = interval }
}

// LockOption changes a lock or a campaign.
type LockOption func(*lockOptions)

type lockOptions struct {
	ttl   time.Duration
	value []byte
}

// LockTTL is how long others wait when the holder vanishes; 0 means 10 s. Shorter
// than a change of master (about a second) loses locks for nothing.
func LockTTL(ttl time.Duration) LockOption { return func(o *lockOptions) { o.ttl = ttl } }

// LockValue is what the lock's key holds, for people or for Leader and Observe. Of a
// campaign it is the value that is campaigned with.
func LockValue(value []byte) LockOption { return func(o *lockOptions) { o.value = value } }

// with applies options. Only a call that has some allocates anything.
func with[T any, O ~func(*T)](options []O) T {
	if len(options) == 0 {
		var none T
		return none
	}
	all := new(T)
	for _, option := range options {
		option(all)
	}
	return *all
}
