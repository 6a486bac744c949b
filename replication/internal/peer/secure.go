package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/replication/internal/handshake"
)

// maxReason bounds what a stranger can write into the log at once.
const maxReason = 512

// grace lets callers move to a connection that proves what counts now, before the one
// that does not is closed: what is under way on it need not be lost.
const grace = 3 * time.Second

// secure makes a connection safe, before anything else is said on it. pod is who was
// called; empty: this is the listening side.
func (p *Port) secure(ctx context.Context, c *Conn, pod string) error {
	security := p.opts.Security
	if security == nil {
		return nil
	}
	changed := security.Changed()
	var secured replication.Secured
	var err error
	if pod == "" {
		secured, err = security.Accept(ctx, c.raw)
	} else {
		secured, err = security.Call(ctx, c.raw, pod)
	}
	if err != nil {
		return err
	}
	c.Conn, c.proved = secured.Conn, secured.Pod
	if pod != "" && c.proved != "" && c.proved != pod {
		return &handshake.Refused{Reason: handshake.WrongCertificate, Message: "it has the certificate of " + c.proved}
	}
	p.mu.Lock()
	c.trust, c.until, c.called = secured.Recheck, secured.Until, pod != ""
	p.mu.Unlock()
	select {
	case <-changed: // perhaps after the check, and before recheck could see it
		if secured.Recheck != nil {
			return secured.Recheck()
		}
	default:
	}
	return nil
}

// dialSecurely dials, and dials again if the other side is not to be secured.
func (p *Port) dialSecurely(ctx context.Context, kind handshake.Kind, pod string, member replication.MemberID, addr string) (net.Conn, error) {
	conn, err := p.dialAt(ctx, false, kind, pod, member, addr)
	if errors.Is(err, replication.ErrPlainPeer) {
		return p.dialAt(ctx, true, kind, pod, member, addr)
	}
	return conn, err
}

// A certificate that is renewed shows in new connections only. So calls move to another
// connection when what the one called has shown ends within renewal, and, if that one
// shows the same, again and again until then.
const (
	renewal    = 30 * time.Second
	renewAgain = 10 * time.Second
)

// recheck closes the connections that are no longer trusted: soon after other
// certificates count, and when what was shown has ended. It returns after Close.
func (p *Port) recheck() {
	changed, due := p.opts.Security.Changed(), time.After(grace)
	tick := time.NewTicker(grace)
	defer tick.Stop()
	for {
		select {
		case <-changed:
			changed = p.opts.Security.Changed()
			if due == nil {
				due = time.After(grace)
			}
		case <-due:
			due = nil
			for c, side := range p.trusted() {
				if err := c.trust(); err != nil {
					p.refused(side, handshake.Untrusted, "it is no longer trusted: "+err.Error(), c.raw)
					c.raw.Close()
				}
			}
		case <-tick.C:
			p.closeEnded()
		case <-p.closed:
			return
		}
	}
}

// closeEnded closes the connections of which what was shown has ended. That is no reason
// to worry: the next one shows what has taken its place, or is refused.
func (p *Port) closeEnded() {
	var ended []*Conn
	now := time.Now()
	p.mu.Lock()
	for c := range p.conns {
		if !c.until.IsZero() && now.After(c.until) {
			c.until = time.Time{} // Its owner takes a moment to notice.
			ended = append(ended, c)
		}
	}
	p.mu.Unlock()
	for _, c := range ended {
		p.logger.Info("a peer connection is closed, as the certificate that it began with has ended", "pod", c.proved)
		c.raw.Close()
	}
}

// callsEnd says that what a pod has shown that this one calls ends soon.
func (p *Port) callsEnd() (soon bool) {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if c.called && c.kind == handshake.Calls && !c.until.IsZero() && c.until.Sub(now) < renewal && now.Sub(c.since) >= renewAgain {
			c.since, soon = now, true
		}
	}
	return soon
}

// trusted are the connections whose trust may end, and which side was called.
func (p *Port) trusted() map[*Conn]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[*Conn]string{}
	for c := range p.conns {
		if c.trust != nil {
			all[c] = "in"
			if c.called {
				all[c] = "out"
			}
		}
	}
	return all
}

// reasonOf is why a connection could not be made safe.
func reasonOf(err error) handshake.Reason {
	var refused *handshake.Refused
	var unverified *tls.CertificateVerificationError
	switch {
	case errors.As(err, &refused):
		return refused.Reason
	case errors.Is(err, replication.ErrUntrusted), errors.As(err, &unverified):
		return handshake.Untrusted
	}
	return handshake.NotSecured
}

// refusedCall counts a call that the other side has refused, or that was not to be
// trusted with what this side has to say.
func (p *Port) refusedCall(err error, conn net.Conn) {
	var refused *handshake.Refused
	var header tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.As(err, &refused):
		p.refused("out", refused.Reason, refused.Message, conn)
	case errors.As(err, &alert): // The other side says so.
		p.refused("out", handshake.NotSecured, err.Error(), conn)
	case errors.As(err, &header) || reasonOf(err) == handshake.Untrusted:
		if !errors.Is(err, replication.ErrPlainPeer) {
			p.refused("out", reasonOf(err), err.Error(), conn)
		}
	}
}

// suspect is what a person should look at when connections are refused.
func suspect(r handshake.Reason) string {
	switch r {
	case handshake.NotSecured, handshake.Untrusted, handshake.WrongCertificate:
		return "the pods' certificates, and whether all pods use TLS"
	}
	return "what the pods' names resolve to"
}
