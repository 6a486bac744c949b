package client

import (
	"context"
	"errors"
	"iter"
	"slices"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Campaign waits until this caller leads the election of this name: an election
// is a lock whose value others may watch. The lock's methods apply: Context
// ends when the leadership is lost, Unlock gives it up, SetValue changes what
// the others see.
func (c *Client) Campaign(ctx context.Context, election string, value []byte, options ...LockOption) (*Lock, error) {
	return c.Lock(ctx, election, append(slices.Clip(options), LockValue(value))...)
}

// Leader reads the present leader's key and value; [ErrNotFound] when there is
// none.
func (c *Client) Leader(ctx context.Context, election string) (*kvv1.KeyValue, error) {
	queue, _, err := c.queue(ctx, election)
	if err != nil {
		return nil, err
	}
	first := firstOf(queue)
	if first == nil {
		return nil, notFound(election)
	}
	return first, nil
}

func firstOf(queue []*kvv1.KeyValue) (first *kvv1.KeyValue) {
	for _, kv := range queue {
		if first == nil || kv.GetCreateRevision() < first.GetCreateRevision() {
			first = kv
		}
	}
	return first
}

// Observe gives the leader's key and value, now and after every change, until
// ctx ends; nil while there is none. Only what compaction was faster than is left
// out. The iterator gives one error, as its last pair.
func (c *Client) Observe(ctx context.Context, election string) iter.Seq2[*kvv1.KeyValue, error] {
	return func(yield func(*kvv1.KeyValue, error) bool) {
		o := observer{client: c, election: election, yield: yield}
		for {
			err := o.follow(ctx)
			if o.stopped {
				return
			}
			if !errors.Is(err, ErrCompacted) { // too far behind to go on: read again
				yield(nil, err)
				return
			}
		}
	}
}

type observer struct {
	client   *Client
	election string
	yield    func(*kvv1.KeyValue, error) bool
	told     bool
	revision int64 // of the leader's key when it was last told; 0: no leader
	seen     int64 // the revision that queue has, perhaps in part
	stopped  bool
}

// follow reads the queue and follows its changes.
func (o *observer) follow(ctx context.Context) error {
	kvs, revision, err := o.client.queue(ctx, o.election)
	if err != nil {
		return err
	}
	queue := make(map[string]*kvv1.KeyValue, len(kvs))
	for _, kv := range kvs {
		queue[string(kv.GetKey())] = kv
	}
	if o.tell(queue); o.stopped {
		return nil
	}
	for response, err := range o.client.Watch(ctx, Prefix(o.election+"/"), FromRevision(revision+1)) {
		if err != nil {
			return err
		}
		if o.see(queue, response); o.stopped {
			return nil
		}
	}
	return ctx.Err()
}

// see takes in changes and tells who leads after each revision, not only after
// the last one of a response.
func (o *observer) see(queue map[string]*kvv1.KeyValue, response *kvv1.WatchResponse) {
	for _, event := range response.GetEvents() {
		kv := event.GetKv()
		if kv.GetModRevision() != o.seen {
			if o.tell(queue); o.stopped {
				return
			}
			o.seen = kv.GetModRevision()
		}
		switch {
		case !inQueue(kv, o.election):
		case event.GetType() == kvv1.Event_TYPE_DELETE:
			delete(queue, string(kv.GetKey()))
		default:
			queue[string(kv.GetKey())] = kv
		}
	}
	if !response.GetPartial() {
		o.tell(queue)
	}
}

// tell yields the leader when it is another, or says something else, than last.
func (o *observer) tell(queue map[string]*kvv1.KeyValue) {
	var leader *kvv1.KeyValue
	for _, kv := range queue {
		if leader == nil || kv.GetCreateRevision() < leader.GetCreateRevision() {
			leader = kv
		}
	}
	if o.told && leader.GetModRevision() == o.revision {
		return
	}
	o.told, o.revision = true, leader.GetModRevision()
	o.stopped = !o.yield(leader, nil)
}
