package client

import (
	"context"
	"fmt"
	"strings"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	defaultLockTTL = 10 * time.Second
	// cleanupTimeout bounds the revoking of a lease that is not needed any more,
	// which would end by itself.
	cleanupTimeout = 2 * time.Second
)

// Lock is a lock that is held, or an election that is won. It lives on a lease
// of its own.
type Lock struct {
	client  *Client
	key     string
	lease   int64
	token   int64
	held    context.Context
	release context.CancelFunc
}

// Lock waits for the lock of this name and takes it. Those who wait get it in
// the order in which they asked. ctx bounds only the wait.
//
// The lock is held until Unlock, or until its lease is lost: then
// Lock.Context ends, and whoever holds it must stop. As a process may be
// stopped between the check and the act, let what the lock protects refuse a
// lower Lock.Token than it has seen.
//
// A lock's keys are its name, a slash and 16 hexadecimal digits: "jobs/1" is
// another lock than "jobs".
func (c *Client) Lock(ctx context.Context, name string, options ...LockOption) (*Lock, error) {
	o := with[lockOptions](options)
	if name == "" {
		return nil, invalid("a lock needs a name")
	}
	if o.ttl == 0 {
		o.ttl = defaultLockTTL
	}
	lease, err := c.Grant(ctx, o.ttl)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", quoted(name), err)
	}
	l := &Lock{client: c, lease: lease, key: queueKey(name, lease)}
	if err := l.acquire(ctx, name, o.value); err != nil {
		l.abandon(ctx)
		return nil, fmt.Errorf("lock %s: %w", quoted(name), err)
	}
	return l, nil
}

// acquire joins the queue and waits until the lock is the first in it.
func (l *Lock) acquire(ctx context.Context, name string, value []byte) error {
	background, release := context.WithCancel(context.WithoutCancel(ctx))
	l.release = release
	held, err := l.client.keepAliveBefore(ctx, background, l.lease)
	if err != nil {
		return err
	}
	l.held = held
	wait, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(held, cancel)()

	put, err := l.client.Txn().IfAbsent(l.key).Put(l.key, value, WithLease(l.lease)).Commit(wait)
	if err != nil {
		return err
	}
	l.token = put.GetHeader().GetRevision()
	for {
		before, revision, err := l.predecessor(wait, name)
		if err == nil && before == "" {
			return nil
		}
		if err == nil {
			err = l.client.waitDeleted(wait, before, revision)
		}
		if err != nil {
			if held.Err() != nil && ctx.Err() == nil {
				return context.Cause(held)
			}
			return err
		}
	}
}

// predecessor gives the key that asked just before this one, "" when it is this
// one's turn, and the revision that this is true for.
func (l *Lock) predecessor(ctx context.Context, name string) (key string, revision int64, err error) {
	queue, revision, err := l.client.queue(ctx, name)
	if err != nil {
		return "", 0, err
	}
	var highest int64
	mine := false
	for _, kv := range queue {
		created := kv.GetCreateRevision()
		mine = mine || string(kv.GetKey()) == l.key
		if created < l.token && created > highest {
			highest, key = created, string(kv.GetKey())
		}
	}
	if !mine {
		return "", 0, ErrLeaseNotFound
	}
	return key, revision, nil
}

func queueKey(name string, lease int64) string { return fmt.Sprintf("%s/%016x", name, lease) }

// inQueue says that a key below a lock's name is of that lock, not of one whose
// name goes on.
func inQueue(kv *kvv1.KeyValue, name string) bool {
	digits, ok := strings.CutPrefix(string(kv.GetKey()), name+"/")
	return ok && len(digits) == 16 && strings.Trim(digits, "0123456789abcdef") == ""
}

// queue gives the keys of all who hold or wait for a lock, and the revision.
func (c *Client) queue(ctx context.Context, name string) (kvs []*kvv1.KeyValue, revision int64, err error) {
	keys := Prefix(name + "/")
	for {
		page, err := c.Range(ctx, keys, AtRevision(revision))
		if err != nil {
			return nil, 0, err
		}
		for _, kv := range page.GetKvs() {
			if inQueue(kv, name) {
				kvs = append(kvs, kv)
			}
		}
		revision = page.GetHeader().GetRevision()
		if !page.GetMore() {
			return kvs, revision, nil
		}
		keys.first = string(page.GetNextKey())
	}
}

// waitDeleted returns when a key that was there at a revision is gone.
func (c *Client) waitDeleted(ctx context.Context, key string, revision int64) error {
	for response, err := range c.Watch(ctx, Key(key), FromRevision(revision+1), NoPuts()) {
		if err != nil {
			return err
		}
		if len(response.GetEvents()) > 0 {
			return nil
		}
	}
	return ctx.Err()
}

// Context ends when the lock is lost or unlocked; context.Cause says which.
func (l *Lock) Context() context.Context { return l.held }

// Token is the fencing token: higher for every later holder of the lock. It is
// the revision at which the holder joined the queue.
func (l *Lock) Token() int64 { return l.token }

// SetValue changes the value of the lock's key while the lock is held; otherwise
// it returns [ErrLeaseNotFound].
func (l *Lock) SetValue(ctx context.Context, value []byte) error {
	response, err := l.client.Txn().IfCreateRevision(l.key, "=", l.token).
		Put(l.key, value, WithLease(l.lease)).Commit(ctx)
	if err == nil && !response.GetSucceeded() {
		err = ErrLeaseNotFound
	}
	return err
}

// Unlock gives the lock to the next in the queue. [ErrLeaseNotFound] says that
// it was lost before. After any other error others get the lock when its time
// to live is over.
func (l *Lock) Unlock(ctx context.Context) error {
	l.release()
	_, err := l.client.Revoke(ctx, l.lease)
	return err
}

// abandon leaves the queue, even if ctx has ended.
func (l *Lock) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	l.release()
	_, _ = l.client.Revoke(ctx, l.lease) // it ends by itself otherwise
}
