package e2e

import (
	"context"
	"fmt"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/history"
)

// verifyTimeout bounds reading the whole history back.
const verifyTimeout = 3 * time.Minute

// verify ends the load, and holds what the clients saw against what the pods
// have.
func (c *Cluster) verify() {
	c.load.stop()
	c.load.tasks.Wait()
	h := c.load.recorder.History()
	if err := h.Save(c.dir); err != nil {
		c.t.Error(err)
	}
	// A node that has just come back may take a pod's address away once more.
	if why := c.missing(20 * time.Second); why != "" {
		c.t.Errorf("the cluster is not whole at the end, so its history cannot be checked: %s", why)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), verifyTimeout)
	defer cancel()
	w, err := c.historian(ctx)
	if err != nil {
		c.t.Errorf("read the history back: %v", err)
		return
	}
	l := history.NewLog(w)
	found := append(history.CheckLog(w), history.CheckSerial(l, h, 0)...)
	found = append(found, history.CheckSamples(h.Samples)...)
	for i, v := range found {
		if i == 20 {
			c.t.Errorf("and %d more", len(found)-i)
			break
		}
		c.t.Errorf("%v", v)
	}
	if err := c.sameHash(ctx, l.Last()); err != nil {
		c.t.Error(err)
	}
	c.t.Logf("checked %d calls, %d revisions, %d samples", len(h.Ops), l.Last(), len(h.Samples))
}

// historian watches everything from the first revision to the newest one, over
// as many streams as it takes: a connection may date from before a pod was cut off.
func (c *Cluster) historian(ctx context.Context) (*history.Watch, error) {
	w := history.NewWatch("historian", "\x00", history.Everything, 1, true)
	for {
		err := c.receive(ctx, w)
		if err == nil || ctx.Err() != nil {
			return w, err
		}
		c.t.Logf("the history is read on after: %v", err)
		sleep(ctx, poll)
	}
}

func (c *Cluster) receive(ctx context.Context, w *history.Watch) error {
	conn, err := c.conn(c.pod(0))
	if err != nil {
		return err
	}
	newest, err := kvv1.NewKVServiceClient(conn).Range(ctx, &kvv1.RangeRequest{Key: []byte("none")})
	if err != nil {
		return err
	}
	last := newest.GetHeader().GetRevision()
	w.Open()
	stream, err := kvv1.NewWatchServiceClient(conn).Watch(ctx, &kvv1.WatchRequest{
		Key: []byte(w.Key), RangeEnd: []byte(w.End), StartRevision: w.Next(), PrevKv: w.PrevKV, ProgressIntervalMs: 200,
	})
	if err != nil {
		return err
	}
	for w.Through < last {
		message, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("at revision %d of %d: %w", w.Through, last, err)
		}
		w.Receive(message, c.load.recorder.Now())
	}
	return nil
}

// sameHash compares what all pods have at a revision.
func (c *Cluster) sameHash(ctx context.Context, revision int64) error {
	hashes := map[uint64]string{}
	for i := range c.replicas {
		conn, err := c.conn(c.pod(i))
		if err != nil {
			return err
		}
		answer, err := kvv1.NewMaintenanceServiceClient(conn).Hash(ctx, &kvv1.HashRequest{Revision: revision})
		if err != nil {
			return fmt.Errorf("the hash of kv-%d at revision %d: %w", i, revision, err)
		}
		hashes[answer.GetHash()] += fmt.Sprintf(" kv-%d", i)
	}
	if len(hashes) > 1 {
		return fmt.Errorf("the pods differ at revision %d: %v", revision, hashes)
	}
	return nil
}
