package client

import (
	"context"
	"errors"
	"iter"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Campaign waits until this caller leads the election of this name: an election
// is a lock whose value others may watch. The lock's methods apply: Context
// ends when the leadership is lost, Unlock gives it up, SetValue changes what
// the others see.
func (c *Client) Campaign(ctx context.Context, election string, value []byte, options ...LockOptions) (*Lock, error) {
	o, err := one(options)
	if err != nil {
		return nil, err
	}
	o.Value = value
	return c.Lock(ctx, election, o)
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
// ctx ends; nil while there is none. The iterator gives one error, as its last
// pair.
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
	for response, err := range o.client.Watch(ctx, Prefix(o.election+"/"), WatchOptions{Revision: revision + 1}) {
		if err != nil {
			return err
		}
		for _, event := range response.GetEvents() {
			if event.GetType() == kvv1.Event_TYPE_DELETE {
				delete(queue, string(event.GetKv().GetKey()))
			} else {
				queue[string(event.GetKv().GetKey())] = event.GetKv()
			}
		}
		if response.GetPartial() {
			continue
		}
		if o.tell(queue); o.stopped {
			return nil
		}
	}
	return ctx.Err()
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
