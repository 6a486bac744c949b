package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const (
	// tokenKey is the metadata that a token goes with calls in.
	tokenKey = "token"
	// unneeded is how long a cluster that wants no login is believed, if it does not
	// refuse a call for want of one.
	unneeded = time.Minute
	// refusedAgain: a token that took the place of a refused one, and is refused as soon
	// as this, is not replaced by yet another one.
	refusedAgain = 5 * time.Second
)

// login gets a token for a password, and the next one before it ends. Calls wait for it.
type login struct {
	client         *Client
	user, password string

	mu      sync.Mutex // guards the fields below
	token   string     // Empty: the cluster wants none.
	got     time.Time
	forced  time.Time     // When a token was last refused.
	until   time.Time     // When the next one is got; zero: there is none yet.
	running chan struct{} // Closed when the login under way ends; nil: there is none.
}

type loginKey struct{}

// withoutLogin is for calls that a login itself needs.
func withoutLogin(ctx context.Context) context.Context {
	return context.WithValue(ctx, loginKey{}, true)
}

// current returns a token that can be used, and when it was got.
func (l *login) current(ctx context.Context) (token string, got time.Time, err error) {
	for {
		l.mu.Lock()
		if !l.until.IsZero() && time.Now().Before(l.until) {
			defer l.mu.Unlock()
			return l.token, l.got, nil
		}
		running := l.running
		if running == nil {
			l.running = make(chan struct{})
			l.mu.Unlock()
			return l.renew(ctx)
		}
		l.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return "", got, ended(ctx, nil, false)
		}
	}
}

// renew logs in for all that wait.
func (l *login) renew(ctx context.Context) (token string, got time.Time, err error) {
	token, ttl, err := l.client.login(ctx, l.user, l.password)
	var refused *Error
	if errors.As(err, &refused) && refused.Reason == kvv1.ErrorReason_ERROR_REASON_AUTH_NOT_ENABLED {
		token, ttl, err = "", unneeded, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.running)
	l.running = nil
	if err != nil {
		return "", got, err
	}
	now := time.Now()
	l.token, l.got, l.until = token, now, now.Add(ttl-ttl/10)
	return token, now, nil
}

// refused says whether a call that was refused for its token may be tried with another
// one, which is got then.
func (l *login) refused(err error, got time.Time) bool {
	if !wantsToken(err) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.got.Equal(got) || l.until.IsZero() {
		return true // There is another one by now, or will be.
	}
	if !l.forced.IsZero() && time.Since(l.forced) < refusedAgain {
		return false
	}
	l.forced, l.until = time.Now(), time.Time{}
	return true
}

// wantsToken says that another token may help against an error.
func wantsToken(err error) bool {
	reason := fromRPC(err).Reason
	return reason == kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED || reason == kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS
}

// login asks any pod for a token.
func (c *Client) login(ctx context.Context, user, password string) (token string, ttl time.Duration, err error) {
	var response *kvv1.LoginResponse
	err = c.do(withoutLogin(ctx), call{send: func(ctx context.Context, conn *grpc.ClientConn) (_ *kvv1.ResponseHeader, err error) {
		response, err = kvv1.NewAuthServiceClient(conn).Login(ctx, &kvv1.LoginRequest{User: user, Password: password})
		return response.GetHeader(), err
	}})
	return response.GetToken(), time.Duration(response.GetTtlSeconds()) * time.Second, err
}

// errPlainPassword is returned when there is no TLS to a pod that is not on this machine.
var errPlainPassword = &Error{
	Code: codes.FailedPrecondition, Reason: kvv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
	Message: "a password is not sent over a connection without TLS, other than to this machine",
}

// unsent is the error of a call that was not sent, because there was no token for it:
// whatever became of the login, the call itself is not applied.
func unsent(err error) error {
	if err == nil {
		return nil
	}
	e := fromRPC(err)
	if e.outcome() != mayBeApplied {
		return e
	}
	return &Error{
		Code: codes.Unavailable, Reason: kvv1.ErrorReason_ERROR_REASON_NOT_READY,
		Message: "no pod has answered the login: " + e.Message, cause: e.cause,
	}
}

// options make every call of a connection carry a token. safe says that the connection
// is to this machine or has TLS.
func (l *login) options(safe bool) []grpc.DialOption {
	begin := func(ctx context.Context) (context.Context, time.Time, error) {
		if !safe {
			return ctx, time.Time{}, errPlainPassword
		}
		token, got, err := l.current(ctx)
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, tokenKey, token)
		}
		return ctx, got, unsent(err)
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
			if ctx.Value(loginKey{}) != nil {
				return invoke(ctx, method, request, reply, conn, options...)
			}
			for {
				with, got, err := begin(ctx)
				if err == nil {
					err = invoke(with, method, request, reply, conn, options...)
				}
				if err == nil || got.IsZero() || !l.refused(err, got) {
					return err
				}
			}
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
			with, got, err := begin(ctx)
			if err != nil {
				return nil, err
			}
			stream, err := open(with, desc, conn, method, options...)
			if err != nil {
				return nil, err
			}
			return &proved{stream, func(err error) bool { return l.refused(err, got) }}, nil
		}),
	}
}

// proved is a stream that was begun with a token.
type proved struct {
	grpc.ClientStream
	// again says whether there is another token after an error.
	again func(err error) bool
}

// RecvMsg makes of a token that was good, and is no more, an error after which the
// stream is begun again, with the next token.
func (s *proved) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil && s.again(err) {
		return &Error{
			Code: codes.Unavailable, Reason: kvv1.ErrorReason_ERROR_REASON_NOT_READY,
			Message: "with the next token it may go on: " + fromRPC(err).Message,
		}
	}
	return err
}
