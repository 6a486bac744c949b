package client

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// The first Status is asked a little after New, so that a program that makes
	// one call and ends does not pay for it.
	firstRefresh = 20 * time.Millisecond
	// Failures ask for a refresh at once; this is for changes that cause none.
	refreshInterval = 15 * time.Second
	// refreshPause keeps a storm of failures from becoming a storm of Status.
	refreshPause   = 50 * time.Millisecond
	refreshTimeout = 2 * time.Second
	// refreshRetry is the interval after a Status that nobody gave, and twice that after
	// the next one: without any the client has but its endpoints to turn to.
	refreshRetry = 500 * time.Millisecond
	// askNextAfter is how long one pod's Status is waited for before the next
	// pod is asked as well.
	askNextAfter = 100 * time.Millisecond
	// avoidHung is how long a pod that did not answer in time is left alone.
	avoidHung = 2 * time.Second
	// avoidNotReady is the same for a pod that said that it is not ready.
	avoidNotReady = 250 * time.Millisecond
)

// pod is one address with its connection.
type pod struct {
	address string
	conn    *grpc.ClientConn
	// avoidUntil is nil, or as given out by the monotonic clock.
	avoidUntil atomic.Pointer[time.Time]
}

func (p *pod) avoid(d time.Duration) {
	until := time.Now().Add(d)
	p.avoidUntil.Store(&until)
}

func (p *pod) avoided() bool {
	until := p.avoidUntil.Load()
	return until != nil && time.Now().Before(*until)
}

// usable says that a call may go to the pod at once. A pod that was found by
// Status must prove that it can be reached from here (its address may be one
// that only other pods can resolve) before any call waits for it.
func (p *pod) usable() bool {
	switch p.conn.GetState() {
	case connectivity.Ready:
		return !p.avoided()
	case connectivity.Idle:
		p.conn.Connect()
	}
	return false
}

// connect waits until the pod can be sent something. While it fails, nothing
// was sent: that is how a write knows that it was certainly not applied.
func (p *pod) connect(ctx context.Context, timeout time.Duration) *Error {
	if p.conn.GetState() == connectivity.Ready {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		state := p.conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			p.conn.Connect()
		case connectivity.Shutdown:
			return p.unreachable("its connection was closed")
		case connectivity.TransientFailure:
			// The state has no text; a call that fails at once has.
			_, err := kvv1.NewClusterServiceClient(p.conn).Status(withoutLogin(ctx), &kvv1.StatusRequest{ThisPodOnly: true})
			if err == nil || fromRPC(err).Reason != kvv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
				return nil // It answers, if only that it does not know who asks.
			}
			return p.unreachable(fromRPC(err).Message)
		}
		if !p.conn.WaitForStateChange(ctx, state) {
			return p.unreachable("no connection within " + timeout.String())
		}
	}
}

func (p *pod) unreachable(why string) *Error {
	// gRPC wraps the system's words, which are what a person needs, in its own.
	for _, wrapping := range []string{"Error while dialing: ", "authentication handshake failed: "} {
		if _, reason, ok := strings.Cut(why, wrapping); ok {
			why = strings.TrimSuffix(reason, `"`)
		}
	}
	e := &Error{
		Code: codes.Unavailable, Reason: kvv1.ErrorReason_ERROR_REASON_NOT_READY,
		Message:  "cannot reach " + p.address + ": " + why,
		Metadata: map[string]string{"because": why},
	}
	e.explainTLS(why)
	return e
}

// view is what is known of the cluster at one time; it is never changed.
type view struct {
	// given are the endpoints of Options.
	given []*pod
	// ready are the pods that Status called ready, the master among them.
	ready  []*pod
	master *pod
	// all are given and every pod that Status named, each once.
	all []*pod
}

// pods chooses the pod for each call.
type pods struct {
	dial func(address string) (*grpc.ClientConn, error)
	view atomic.Pointer[view]
	next atomic.Uint32
	kick chan struct{}
}

func newPods(endpoints []string, dial func(string) (*grpc.ClientConn, error)) (*pods, error) {
	s := &pods{dial: dial, kick: make(chan struct{}, 1)}
	v := &view{}
	for _, endpoint := range endpoints {
		if find(v.given, endpoint) != nil {
			continue
		}
		conn, err := dial(endpoint)
		if err != nil {
			for _, p := range v.given {
				p.conn.Close()
			}
			return nil, invalid("endpoint %q: %s", endpoint, undialed(err))
		}
		v.given = append(v.given, &pod{address: endpoint, conn: conn})
	}
	v.all = v.given
	s.next.Store(rand.Uint32())
	s.view.Store(v)
	return s, nil
}

func find(among []*pod, address string) *pod {
	for _, p := range among {
		if p.address == address {
			return p
		}
	}
	return nil
}

func (s *pods) close() {
	for _, p := range s.view.Load().all {
		p.conn.Close()
	}
}

// want says which pod suits a call best.
type want int

const (
	anyPod want = iota
	theMaster
	// notTheMaster: a long transfer, which the master should be spared.
	notTheMaster
)

// pick gives a pod for one attempt, another than last if there is one.
func (s *pods) pick(w want, last *pod) *pod {
	v := s.view.Load()
	if w == theMaster && v.master != nil && v.master != last && v.master.usable() {
		return v.master
	}
	start := int(s.next.Add(1))
	var second *pod
	for i := range v.ready {
		p := v.ready[(start+i)%len(v.ready)]
		switch {
		case !p.usable():
		case p == last || (w == notTheMaster && p == v.master):
			second = p
		default:
			return p
		}
	}
	if second != nil && len(v.given) < 2 {
		return second
	}
	for i := range v.given {
		p := v.given[(start+i)%len(v.given)]
		if p != last && !p.avoided() && p.conn.GetState() != connectivity.TransientFailure {
			return p
		}
	}
	if second != nil {
		return second
	}
	return v.given[start%len(v.given)]
}

// failed takes note of how an attempt on a pod ended.
func (s *pods) failed(p *pod, e *Error) {
	switch {
	case e.Is(ErrRateExceeded):
		return // The pod is well.
	case e.Reason == kvv1.ErrorReason_ERROR_REASON_NOT_READY:
		p.avoid(avoidNotReady)
	case e.Code == codes.DeadlineExceeded:
		p.avoid(avoidHung)
	}
	s.refresh()
}

// refresh asks for a new Status soon.
func (s *pods) refresh() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// follow keeps the view true until ctx ends.
func (s *pods) follow(ctx context.Context, seen func(*kvv1.StatusResponse)) {
	timer, retry := time.NewTimer(firstRefresh), refreshRetry
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.kick:
		}
		again := refreshInterval + rand.N(refreshInterval/4)
		if status := s.ask(ctx); status != nil {
			seen(status)
			s.update(status)
			retry = refreshRetry
		} else {
			again = min(again, retry)
			retry = min(2*retry, refreshInterval)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(refreshPause):
		}
		timer.Reset(again)
	}
}

// ask gets a Status from the first pod that answers, nil when none does. A pod
// that knows of no ready one, for example because it is joining, is believed
// only when no other answers.
func (s *pods) ask(ctx context.Context) *kvv1.StatusResponse {
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	v := s.view.Load()
	answers := make(chan *kvv1.StatusResponse, len(v.all))
	asked, answered := 0, 0
	var doubtful *kvv1.StatusResponse
	defer func() {
		cancel()
		for ; answered < asked; answered++ {
			<-answers
		}
	}()
	start := int(s.next.Add(1))
	next := time.NewTimer(0)
	defer next.Stop()
	for answered < len(v.all) {
		select {
		case <-ctx.Done():
			return doubtful
		case <-next.C:
			if asked == len(v.all) {
				continue
			}
			p := v.all[(start+asked)%len(v.all)]
			asked++
			go func() { answers <- statusOf(ctx, p, len(v.ready) == 0) }()
			next.Reset(askNextAfter)
		case status := <-answers:
			answered++
			if slices.ContainsFunc(status.GetPods(), (*kvv1.PodStatus).GetReady) {
				return status
			}
			if status != nil {
				doubtful = status
			}
			next.Reset(0)
		}
	}
	return doubtful
}

// statusOf asks a pod. If the client knows of no other, it asks as soon as there is a
// connection: the pod may be the next one that goes.
func statusOf(ctx context.Context, p *pod, wait bool) *kvv1.StatusResponse {
	status, err := kvv1.NewClusterServiceClient(p.conn).Status(ctx, &kvv1.StatusRequest{}, grpc.WaitForReady(wait))
	if err != nil || len(status.GetPods()) == 0 {
		return nil
	}
	return status
}

// update makes a new view. Only follow calls it.
func (s *pods) update(status *kvv1.StatusResponse) {
	old := s.view.Load()
	v := &view{given: old.given, all: append([]*pod(nil), old.given...)}
	for _, member := range status.GetPods() {
		address := member.GetClientAddress()
		if address == "" {
			continue
		}
		p := find(old.all, address)
		if p == nil {
			conn, err := s.dial(address)
			if err != nil {
				continue // an address that cannot be parsed; the endpoints serve
			}
			p = &pod{address: address, conn: conn}
		}
		p.usable() // starts to connect
		if find(v.all, address) == nil {
			v.all = append(v.all, p)
		}
		if member.GetReady() {
			v.ready = append(v.ready, p)
		}
		if member.GetRole() == kvv1.PodStatus_ROLE_MASTER {
			v.master = p
		}
	}
	s.view.Store(v)
	for _, p := range old.all {
		if find(v.all, p.address) == nil {
			p.conn.Close()
		}
	}
}
