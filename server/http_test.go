package server

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/batondb/baton/internal/access"
	"github.com/batondb/baton/internal/caller"
	"github.com/batondb/baton/internal/pki"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// getFrom asks the HTTP port from an address.
func getFrom(handler http.Handler, address, path string) (int, string) {
	return getWith(handler, address, path, nil)
}

// getWith also changes the request before.
func getWith(handler http.Handler, address, path string, change func(*http.Request)) (int, string) {
	request := httptest.NewRequest(http.MethodGet, path, nil)
	request.RemoteAddr = address
	if change != nil {
		change(request)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, request)
	return w.Code, w.Body.String()
}

// Profiles are for this machine, garbage is collected on demand now and then, and
// the rest of the port is for everybody.
func TestProfiles(t *testing.T) {
	handler := newPod(t, "kv-0").handler()
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap?gc=1", "/debug/pprof/cmdline", "/debug/pprof/profile", "/debug/pprof/trace", "/debug/pprof/symbol"} {
		if code, body := getFrom(handler, "10.0.0.7:4711", path); code != http.StatusForbidden || !strings.Contains(body, "kubectl port-forward") {
			t.Errorf("%s from another machine: %d %s", path, code, body)
		}
	}
	for i, path := range []string{"/debug/pprof/heap?gc=1", "/debug/pprof/heap?gc=1", "/debug/pprof/allocs?gc=yes"} {
		want := http.StatusOK
		if i > 0 {
			want = http.StatusTooManyRequests
		}
		if code, body := getFrom(handler, "127.0.0.1:4711", path); code != want {
			t.Errorf("%s, %d: %d %.100s", path, i, code, body)
		}
	}
	if code, _ := getFrom(handler, "[::1]:4711", "/debug/pprof/heap"); code != http.StatusOK {
		t.Error("a heap profile of this machine:", code)
	}
	if code, _ := getFrom(handler, "10.0.0.7:4711", "/metrics"); code != http.StatusOK {
		t.Error("metrics:", code)
	}
}

func TestTooManyProfiles(t *testing.T) {
	p := newProfiles(testCore())
	release, begun := make(chan struct{}), make(chan struct{})
	slow := p.guard(func(http.ResponseWriter, *http.Request) { begun <- struct{}{}; <-release })
	for range maxProfiles {
		go getFrom(slow, "127.0.0.1:1", "/")
		<-begun
	}
	if code, _ := getFrom(slow, "127.0.0.1:1", "/"); code != http.StatusTooManyRequests {
		t.Error(code)
	}
	close(release)
}

// addUser adds a user with a role of a name; empty: none.
func (s *testStore) addUser(name, role string) {
	changes := []*kvv1.AuthChange{{Change: &kvv1.AuthChange_AddUser{AddUser: &kvv1.AddUser{Name: name, NoPassword: true}}}}
	if role != "" {
		changes = append(changes, &kvv1.AuthChange{Change: &kvv1.AuthChange_GrantRole{GrantRole: &kvv1.GrantRole{User: name, Role: role}}})
	}
	for _, change := range changes {
		s.apply(&kvv1.Command{Identity: &kvv1.Identity{Pod: true}, Command: &kvv1.Command_Auth{Auth: change}})
	}
}

// While access control is on, an administrator takes profiles from elsewhere, by a token of
// either kind, and nobody else does.
func TestProfilesForAdministrators(t *testing.T) {
	p := newPod(t, "kv-0", func(o *Options) {
		o.Security.Token = func(_ context.Context, token string) (caller.Caller, error) {
			user, ok := strings.CutPrefix(token, "good.token.of-")
			if !ok {
				return caller.Caller{}, errors.New("its signature is wrong")
			}
			return caller.Caller{User: user, By: caller.ServiceAccount}, nil
		}
	}).use()
	handler := p.handler()
	ask := func(token, query string) (int, string) {
		return getWith(handler, "10.0.0.7:4711", "/debug/pprof/heap"+query, func(r *http.Request) {
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
		})
	}
	if code, body := ask("good.token.of-root", ""); code != http.StatusForbidden || !strings.Contains(body, "access control is off") {
		t.Errorf("while access control is off: %d %s", code, body)
	}
	p.store.enable()
	p.store.addUser("alice", "")
	password := newToken([]byte("key"), access.Root, 2, time.Now().Add(tokenTTL))
	for _, test := range []struct {
		token string
		want  int
		says  string
	}{
		{"good.token.of-root", http.StatusOK, ""},
		{password, http.StatusOK, ""},
		{"", http.StatusUnauthorized, "show a certificate or a token"},
		{"bad.token.of-root", http.StatusUnauthorized, "signature is wrong"},
		{password[:len(password)-2] + "AA", http.StatusUnauthorized, "log in again"},
		{newToken([]byte("key"), access.Root, 2, time.Now().Add(-tokenTTL)), http.StatusUnauthorized, "expired"},
		{"good.token.of-alice", http.StatusForbidden, `needs the role "root"`},
		{"good.token.of-bob", http.StatusForbidden, "no user"},
	} {
		code, body := ask(test.token, "")
		if code != test.want || !strings.Contains(body, test.says) || test.token != "" && strings.Contains(body, test.token) {
			t.Errorf("with %q: %d %.200s", test.token, code, body)
		}
	}
	for _, query := range []string{"?seconds=301", "?seconds=-1", "?seconds=NaN", "?seconds=x"} {
		if code, body := ask(password, query); code != http.StatusBadRequest {
			t.Errorf("%s: %d %.200s", query, code, body)
		}
	}
}

// A certificate counts as it does on the client port: if it is good now.
func TestProfilesByCertificate(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	p := newSecuredPod(t, ca)
	p.store.enable()
	p.store.addUser(webPrincipal, access.Root)
	for _, test := range []struct {
		pair pki.Pair
		want int
	}{
		{issueFor(t, ca, pki.Request{Names: []string{webPrincipal}, Client: true}), http.StatusOK},
		{issueFor(t, ca, pki.Request{Names: []string{"spiffe://example.org/ns/shop/sa/other"}, Client: true}), http.StatusForbidden},
		{issueFor(t, ca, pki.Request{Names: []string{webPrincipal}, Client: true, Now: time.Now().Add(-time.Hour), Life: time.Hour - time.Second}), http.StatusUnauthorized},
		{issueFor(t, other, pki.Request{Names: []string{webPrincipal}, Client: true}), http.StatusUnauthorized},
	} {
		chain, err := pki.ParseCertificates(test.pair.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		code, body := getWith(p.handler(), "10.0.0.7:4711", "/debug/pprof/heap", func(r *http.Request) {
			r.TLS = &tls.ConnectionState{PeerCertificates: chain}
		})
		if code != test.want {
			t.Errorf("for %v until %s: %d %.200s", chain[0].URIs, chain[0].NotAfter, code, body)
		}
	}
}
