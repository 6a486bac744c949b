package server

import (
	"context"
	"crypto/x509"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/internal/refusal"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server/audit"
)

// Security is how the client port and the HTTP port are secured, and how those who
// call are told apart.
type Security struct {
	// Certificates are for TLS on both ports; nil: they are plain. A client may show
	// a certificate of its own, which must then be of a CA in ca.crt.
	Certificates *pki.Files
	// CommonName takes the name of a client certificate without a SAN URI from its
	// common name. Any CA that signs certificates for other purposes, too, makes
	// users of their owners then.
	CommonName bool
	// Token says whose a JSON Web Token is; nil: none is taken. The error is for
	// the client, and must not have the token in it.
	Token func(ctx context.Context, token string) (caller.Caller, error)
	// Audit is where calls of the client port are written down; nil: nowhere.
	Audit *audit.Trail
}

// The metadata fields that may hold a call's token: the usual one, and the one that
// etcd's clients use.
const (
	authorizationKey = "authorization"
	etcdTokenKey     = "token"
	bearerPrefix     = "Bearer "
)

// identify puts the caller of a call on the client port into its context. A token says
// more than a certificate, which may belong to a machine; one that proves nothing
// ends the call, because its sender relies on it. There is no header by which a gateway
// could speak for others, and a gateway's own certificate makes no user of its
// callers: they show a token.
func (c *core) identify(ctx context.Context) (context.Context, error) {
	if token := tokenOf(ctx); isPasswordToken(token) {
		return c.loggedIn(ctx, token)
	} else if token != "" {
		if c.options.Security.Token == nil {
			return ctx, errUnauthenticated("this pod cannot check tokens of ServiceAccounts: it runs outside Kubernetes, or its client port is plain")
		}
		who, err := c.options.Security.Token(ctx, token)
		if err != nil {
			return ctx, errUnauthenticated("the token is not accepted: %v", err)
		}
		return caller.With(ctx, who), nil
	}
	from, ok := peer.FromContext(ctx)
	if !ok {
		return ctx, nil
	}
	if shown, ok := from.AuthInfo.(certified); ok && shown.caller != (caller.Caller{}) {
		if time.Now().After(shown.caller.Until) {
			return ctx, errLapsed(shown.caller)
		}
		return caller.With(ctx, shown.caller), nil
	}
	return ctx, nil
}

// errLapsed is what a caller gets whose proof has ended: what to do to go on.
func errLapsed(who caller.Caller) error {
	switch who.By {
	case caller.Certificate: // Its client is to connect again, with the certificate that it has by now.
		return errNotReady("the client certificate of this connection has expired; whoever has a new one connects again")
	case caller.ServiceAccount:
		return errUnauthenticated("the token has expired: call again with the next one")
	}
	return errTokenExpired
}

// loggedIn puts the user of a token that was given for a password into a context. While
// access control is off, it is nobody's, as in etcd.
func (c *core) loggedIn(ctx context.Context, token string) (context.Context, error) {
	if !c.access().Enabled() && !c.enabledSince(ctx) {
		return ctx, nil
	}
	var who caller.Caller
	err := c.checked(ctx, func(state *access.State) (err error) {
		who, err = readToken(state, token, time.Now())
		return err
	})
	if err != nil {
		return ctx, err
	}
	return caller.With(ctx, who), nil
}

// tokenOf is the token that came with a call; empty: none did. It does not
// copy the metadata, as every call comes through here.
func tokenOf(ctx context.Context) string {
	if values := metadata.ValueFromIncomingContext(ctx, authorizationKey); len(values) > 0 {
		if token, ok := strings.CutPrefix(values[0], bearerPrefix); ok && isToken(token) {
			return token
		}
	}
	if values := metadata.ValueFromIncomingContext(ctx, etcdTokenKey); len(values) > 0 && isToken(values[0]) {
		return values[0]
	}
	return ""
}

// isToken says whether this is a JSON Web Token, or one that was given for a password.
func isToken(token string) bool { return isPasswordToken(token) || strings.Count(token, ".") == 2 }

// certified is what gRPC keeps of a connection with TLS.
type certified struct {
	credentials.TLSInfo
	// caller is the zero value if no certificate was shown, or one that names nobody.
	caller caller.Caller
}

// certify works out once, for all calls of a connection, who is at its other end, by
// certificates that count until then.
func (s Security) certify(shown credentials.TLSInfo, until time.Time) certified {
	who := s.certificateCaller(shown.State.PeerCertificates[0])
	if who != (caller.Caller{}) {
		who.Until = until
	}
	return certified{TLSInfo: shown, caller: who}
}

// certificateCaller is whom a verified certificate names. Its DNS names and addresses
// are a machine's, not a caller's, and it is no ServiceAccount, whatever its CA lets
// people write into it.
func (s Security) certificateCaller(leaf *x509.Certificate) caller.Caller {
	name := ""
	switch {
	case len(leaf.URIs) > 0:
		name = leaf.URIs[0].String()
	case s.CommonName:
		name = leaf.Subject.CommonName
	}
	if name == "" || strings.HasPrefix(name, caller.ServiceAccounts) {
		return caller.Caller{}
	}
	return caller.Caller{User: name, By: caller.Certificate}
}

// administrates says who makes a request on the HTTP port, by a token or a certificate as
// on the client port, and refuses whoever is no administrator. While access control is off
// there is none.
func (c *core) administrates(r *http.Request) (caller.Caller, error) {
	if !c.access().Enabled() {
		return caller.Caller{}, errNoAdministrators
	}
	from := &peer.Peer{}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		until, err := c.options.Security.Certificates.Material().Until(r.TLS.PeerCertificates, x509.ExtKeyUsageClientAuth, "", time.Now())
		if err != nil {
			return caller.Caller{}, errUnauthenticated("the client certificate: %v", err)
		}
		from.AuthInfo = c.options.Security.certify(credentials.TLSInfo{State: *r.TLS}, until)
	}
	ctx := peer.NewContext(r.Context(), from)
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(authorizationKey, r.Header.Get("Authorization")))
	ctx, err := c.identify(ctx)
	if err == nil {
		err = c.mayOrder(ctx)
	}
	return caller.From(ctx), err
}

var errNoAdministrators error = &refusal.Error{
	Reason:  kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED,
	Message: "access control is off, so nobody has it, or this pod has no data yet",
}
