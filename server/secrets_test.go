package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/metadata"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/pki"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/server/audit"
)

// leastHashing is less than a password takes on any machine, and much more than it takes to
// look at none: at bcrypt's least cost a millisecond, at its default one sixty times as long.
const leastHashing = 100 * time.Microsecond << (passwordCost - bcrypt.MinCost)

// Whoever is no user, or has no password, is answered as late as a wrong password, and in
// the same words.
func TestUnknownUsersTakeAsLong(t *testing.T) {
	p := newPod(t, "kv-0").use()
	passwords := p.core.bounds.passwords
	hash, err := passwords.hash(t.Context(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	for of, hash := range map[string][]byte{"a user's hash": hash, "the decoy": []byte(decoy)} {
		if cost, err := bcrypt.Cost(hash); cost != passwordCost || err != nil {
			t.Errorf("%s costs %d, %v", of, cost, err)
		}
	}
	for who, record := range map[string]*kvv1.AuthUser{
		"nobody": nil, "a user without a password": {NoPassword: true}, "one that had one": {NoPassword: true, PasswordHash: hash}, "a user": {PasswordHash: hash},
	} {
		for _, password := range []string{"guess", ""} {
			begun := time.Now()
			matches, err := passwords.matches(t.Context(), record, password)
			if took := time.Since(begun); took < leastHashing || matches || err != nil {
				t.Errorf("%s with %q after %s: %t, %v", who, password, took, matches, err)
			}
		}
	}
	p.store.enable()
	p.store.addUser("alice", "")
	said := map[string]bool{}
	for _, user := range []string{"alice", "nobody", access.Root} {
		begun := time.Now()
		_, err := kvv1.NewAuthServiceClient(p.conn).Login(within5s(t), &kvv1.LoginRequest{User: user, Password: "guess"})
		if took := time.Since(begun); err == nil || took < leastHashing {
			t.Errorf("%s is answered after %s: %v", user, took, err)
		}
		said[err.Error()] = true
	}
	if len(said) != 1 {
		t.Errorf("they are told apart: %v", said)
	}
}

// No password and no token is in the log, whatever is logged, in the audit trail, or in an
// error.
func TestSecretsAreNotWrittenDown(t *testing.T) {
	log, trailed, errs := &syncBuffer{}, &syncBuffer{}, &strings.Builder{}
	rule, err := audit.ParseRule("all")
	if err != nil {
		t.Fatal(err)
	}
	trail, err := audit.Open(audit.Options{Rule: rule, Out: trailed, Pod: "kv-0"})
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(500 * time.Millisecond)
	p := newPod(t, "kv-0", func(o *Options) {
		o.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
		o.Security.Audit = trail
		o.Security.Token = func(_ context.Context, token string) (caller.Caller, error) {
			if token != "good.secretgood.token" {
				return caller.Caller{}, errors.New("its signature is wrong")
			}
			return caller.Caller{User: access.Root, By: caller.ServiceAccount, Until: until}, nil
		}
	}).use()
	note := func(err error) {
		if err != nil {
			errs.WriteString(err.Error() + "\n")
		}
	}
	auth := kvv1.NewAuthServiceClient(p.conn)
	change := func(ctx context.Context, c *kvv1.AuthChange, password string) {
		_, err := auth.ChangeAuth(ctx, &kvv1.ChangeAuthRequest{Change: c, Password: password})
		note(err)
	}
	change(within5s(t), &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: access.Root}}}, "secretfirst")
	change(within5s(t), &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: access.Root, Role: access.Root}}}, "")
	change(within5s(t), &kvv1.AuthChange{Change: &kvv1.AuthChange_Enable{Enable: &kvv1.EnableAuth{}}}, "")
	var tokens []string
	login := func(password string) {
		response, err := auth.Login(within5s(t), &kvv1.LoginRequest{User: access.Root, Password: password})
		note(err)
		tokens = append(tokens, response.GetToken())
	}
	login("secretfirst")
	login("secretguess")
	with := func(token string) context.Context {
		return metadata.AppendToOutgoingContext(within5s(t), authorizationKey, bearerPrefix+token)
	}
	change(with(tokens[0]), &kvv1.AuthChange{Change: &kvv1.AuthChange_SetPassword{SetPassword: &kvv1.SetPassword{Name: access.Root}}}, "secretsecond")
	change(with(tokens[0]), &kvv1.AuthChange{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: access.Root}}}, "secretthird")
	login("secretsecond")
	tokens[1] = tokens[2][:len(tokens[2])-1] + "A"
	tokens = append(tokens, "good.secretgood.token", "good.secretbad.token", newToken(p.store.Access().TokenKey(), access.Root, 2, time.Now().Add(-tokenTTL)))
	for _, token := range tokens {
		_, err := p.kv().Put(with(token), &kvv1.PutRequest{Key: []byte("k")})
		note(err)
		watch, err := kvv1.NewWatchServiceClient(p.conn).Watch(with(token), &kvv1.WatchRequest{Key: []byte("k")})
		if err == nil && token != tokens[2] { // That would go on.
			for err == nil {
				_, err = watch.Recv()
			}
		}
		note(err)
		_, body := getWith(p.handler(), "10.0.0.7:4711", "/debug/pprof/cmdline", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) })
		errs.WriteString(body)
	}
	p.Stop(within5s(t))
	trail.Close()
	for where, text := range map[string]string{"the log": log.String(), "the audit trail": trailed.String(), "errors": errs.String()} {
		if strings.Contains(text, "secret") {
			t.Errorf("a password, or a ServiceAccount's token, is in %s:\n%s", where, text)
		}
		if slices.ContainsFunc(tokens, func(token string) bool {
			return strings.Contains(text, token[6:20]) || strings.Contains(text, token[len(token)-14:])
		}) {
			t.Errorf("part of a token is in %s:\n%s", where, text)
		}
		if len(text) == 0 {
			t.Errorf("nothing is in %s: that proves nothing", where)
		}
	}
}

// A gateway's certificate makes nobody of its callers (CVE-2018-16886): what comes with
// their calls counts as what it is, or ends the call, and no path of the HTTP port leads to
// the data.
func TestAGatewayIsNotItsCallers(t *testing.T) {
	ca := newTestCA(t)
	p := newSecuredPod(t, ca, func(o *Options) {
		o.Security.CommonName = true
		o.Security.Token = func(_ context.Context, token string) (caller.Caller, error) {
			if token != "good.to.ken" {
				return caller.Caller{}, errors.New("it has expired")
			}
			return caller.Caller{User: "web", By: caller.ServiceAccount}, nil
		}
	})
	gateway := trusting(t, []*pki.CA{ca}, issueFor(t, ca, pki.Request{CommonName: access.Root, Client: true}))
	kv := p.dial(t, gateway)
	put := func(pairs ...string) (caller.Caller, error) {
		p.mu.Lock()
		p.seen = caller.Caller{}
		p.mu.Unlock()
		_, err := kv.Put(metadata.AppendToOutgoingContext(within5s(t), pairs...), &kvv1.PutRequest{Key: []byte("k")})
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.seen, err
	}
	for _, test := range []struct {
		pairs []string
		want  caller.Caller
		code  kvv1.ErrorReason
	}{
		{nil, caller.Caller{User: access.Root, By: caller.Certificate}, 0},
		{[]string{"x-remote-user", "alice"}, caller.Caller{User: access.Root, By: caller.Certificate}, 0},
		{[]string{"authorization", "Bearer good.to.ken"}, caller.Caller{User: "web", By: caller.ServiceAccount}, 0},
		{[]string{"authorization", "Bearer bad.to.ken"}, caller.Caller{}, unauthenticated},
		{[]string{"token", "bad.to.ken"}, caller.Caller{}, unauthenticated},
	} {
		who, err := put(test.pairs...)
		who.Until = time.Time{}
		if who != test.want || (err == nil) != (test.code == 0) {
			t.Errorf("with %v it is %+v, %v", test.pairs, who, err)
		}
		if test.code != 0 {
			wantReason(t, err, test.code)
		}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: gateway}}
	defer client.CloseIdleConnections()
	for _, path := range []string{"/v3/kv/range", "/v3/kv/put", "/v3beta/kv/range", "/v3/auth/authenticate", "/v2/keys/k", "/baton.kv.v1.KVService/Range", "/etcdserverpb.KV/Range"} {
		response, err := client.Post("https://"+p.web+path, "application/json", strings.NewReader(`{"key":"aw=="}`))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s %s", path, response.Status, text)
		}
	}
}
