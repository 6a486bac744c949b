package server

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/store"
)

// core is what the services share: the way to the log and to the store.
type core struct {
	options *Options
	log     atomic.Pointer[Log]         // nil until UseLog
	store   atomic.Pointer[store.Store] // nil until UseStore
	// stopping ends when the pod stops. Streams then end with NOT_READY, and their
	// clients go on elsewhere.
	stopping     context.Context
	peerStatuses *peerStatuses
	space        *space
	deadlines    deadlines
	rates        *rates
	metrics      *metrics
	doubts       doubts
	rights       rights
	bounds       *bounds
	// outliving are the goroutines that outlive a call on the client port by a
	// moment. Stop waits for them.
	outliving sync.WaitGroup
}

// needLog returns the log, or NOT_READY while the pod starts.
func (c *core) needLog() (Log, error) {
	log := c.log.Load()
	if log == nil {
		return nil, errNotReady("it is starting")
	}
	return *log, nil
}

// needStore returns the store. It fails with NOT_READY while the pod clones, while
// it is unsure of its data, and once that has turned out to differ.
func (c *core) needStore() (*store.Store, error) {
	if why := c.withheld(); why != nil {
		return nil, errNotReady(*why)
	}
	st := c.store.Load()
	if st == nil {
		log, err := c.needLog()
		if err != nil {
			return nil, err
		}
		because := log.Status().Because
		if because == "" {
			because = "it has no database yet"
		}
		return nil, errNotReady(because)
	}
	return st, nil
}

// withheld says why this pod must not serve its data, for now or for good; nil if
// it may.
func (c *core) withheld() *string {
	if why := c.doubts.diverged.Load(); why != nil {
		return why
	}
	if d := c.doubts.why.Load(); d != nil {
		return &d.why
	}
	return c.doubts.parts.why.Load()
}

// prepareRead returns the store when it is as fresh as the options ask.
func (c *core) prepareRead(ctx context.Context, options *kvv1.ReadOptions) (*store.Store, error) {
	st, err := c.needStore()
	if err != nil {
		return nil, err
	}
	log, err := c.needLog()
	if err != nil {
		return nil, err
	}
	if err := checkCluster(log, options.GetClusterId()); err != nil {
		return nil, err
	}
	switch options.GetConsistency() {
	case kvv1.Consistency_CONSISTENCY_LOCAL:
		err = c.outdated(ctx)
	case kvv1.Consistency_CONSISTENCY_BOUNDED:
		err = log.BoundedRead(ctx, time.Duration(options.GetMaxStalenessMs())*time.Millisecond)
		if err == nil {
			err = c.outdated(ctx) // The client may be content with any age.
		}
	default:
		err = log.LinearizableRead(ctx)
	}
	if err != nil {
		return nil, err
	}
	if revision := options.GetMinRevision(); revision > 0 {
		if err := st.WaitRevision(ctx, revision); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// checkCluster refuses a request for another cluster.
func checkCluster(log Log, asked string) error {
	if asked == "" {
		return nil
	}
	if own := log.ClusterID(); own != asked {
		return errOtherCluster(asked, own)
	}
	return nil
}

// prepareStream is prepareRead for a stream, which has no deadline of its own
// and needs none once it has begun.
func (c *core) prepareStream(ctx context.Context, options *kvv1.ReadOptions) (*store.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultDeadline)
	defer cancel()
	return c.prepareRead(ctx, options)
}

// header builds the header of an answer that comes from no read or write.
func (c *core) header(st *store.Store) *kvv1.ResponseHeader {
	return &kvv1.ResponseHeader{Revision: st.Revision(), Pod: c.options.Name}
}

// masterAddress is the master's client address, as far as this pod knows it.
func (c *core) masterAddress() string {
	log := c.log.Load()
	if log == nil {
		return ""
	}
	pod, ok := (*log).Master()
	if !ok {
		return ""
	}
	if pod == c.options.Name {
		return c.options.ClientAddress
	}
	return c.peerStatuses.clientAddress(pod)
}
