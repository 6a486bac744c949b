package tokens

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/batondb/baton/internal/caller"
)

var epoch = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

const issuer = "https://kubernetes.default.svc"

// server is an API server: it signs tokens, and says what its keys are.
type server struct {
	rsa   *rsa.PrivateKey
	ec    *ecdsa.PrivateKey
	asked atomic.Int32
	down  atomic.Bool
	mu    sync.Mutex // guards keys
	keys  []jose.JSONWebKey
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{}
	var err error
	if s.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if s.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	s.keys = []jose.JSONWebKey{
		{Key: s.rsa.Public(), KeyID: "rsa", Algorithm: "RS256", Use: "sig"},
		{Key: s.ec.Public(), KeyID: "ec", Algorithm: "ES256", Use: "sig"},
	}
	return s
}

func (s *server) fetch(_ context.Context, path string) ([]byte, error) {
	if s.down.Load() {
		return nil, errors.New("connection refused")
	}
	if path == discoveryPath {
		return []byte(`{"issuer":"` + issuer + `"}`), nil
	}
	s.asked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	return json.Marshal(jose.JSONWebKeySet{Keys: s.keys})
}

// body is what is in a good token.
func body(change ...func(map[string]any)) map[string]any {
	c := map[string]any{
		"iss": issuer, "aud": []string{"baton"}, "sub": "system:serviceaccount:shop:web",
		"exp": epoch.Add(time.Hour).Unix(), "nbf": epoch.Unix(), "iat": epoch.Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "shop", "serviceaccount": map[string]any{"name": "web", "uid": "1"},
			"pod": map[string]any{"name": "web-7f", "uid": "2"},
		},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func sign(t *testing.T, algorithm jose.SignatureAlgorithm, key any, id string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func newVerifier(t *testing.T, s *server, change ...func(*Options)) *Verifier {
	t.Helper()
	o := Options{Audience: "baton", Fetch: s.fetch, Now: func() time.Time { return epoch }}
	for _, f := range change {
		f(&o)
	}
	v := New(o)
	t.Cleanup(v.Close)
	return v
}

func without(key string) func(map[string]any) {
	return func(c map[string]any) { delete(c, key) }
}

func with(key string, value any) func(map[string]any) {
	return func(c map[string]any) { c[key] = value }
}

func publicPEM(t *testing.T, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func TestTokens(t *testing.T) {
	s := newServer(t)
	v := newVerifier(t, s)
	none := func() string {
		parts := strings.Split(sign(t, jose.RS256, s.rsa, "rsa", body()), ".")
		return "eyJhbGciOiJub25lIiwia2lkIjoicnNhIn0." + parts[1] + "."
	}
	flipped := func(i int) string {
		parts := strings.Split(sign(t, jose.RS256, s.rsa, "rsa", body()), ".")
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		parts[i] = base64.RawURLEncoding.EncodeToString(b)
		return strings.Join(parts, ".")
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	good := func(change ...func(map[string]any)) string { return sign(t, jose.RS256, s.rsa, "rsa", body(change...)) }
	for name, test := range map[string]struct{ token, refused string }{
		"RS256":                    {good(), ""},
		"ES256":                    {sign(t, jose.ES256, s.ec, "ec", body()), ""},
		"one of several audiences": {good(with("aud", []string{"vault", "baton"})), ""},
		"an audience alone":        {good(with("aud", "baton")), ""},
		"bound to no pod":          {good(with("kubernetes.io", map[string]any{"namespace": "shop", "serviceaccount": map[string]any{"name": "web"}})), ""},
		"a clock a bit behind":     {good(with("nbf", epoch.Add(leeway).Unix())), ""},

		"none":                            {none(), "no JSON Web Token with a signature of"},
		"HS256 with the public key":       {sign(t, jose.HS256, publicPEM(t, s.rsa.Public()), "rsa", body()), "no JSON Web Token with a signature of"},
		"PS256":                           {sign(t, jose.PS256, s.rsa, "rsa", body()), "no JSON Web Token with a signature of"},
		"RS256 with the other key's name": {sign(t, jose.RS256, s.rsa, "ec", body()), "its key is for ES256"},
		"another cluster's key":           {sign(t, jose.RS256, other, "rsa", body()), "signature is wrong"},
		"an unknown key":                  {sign(t, jose.RS256, s.rsa, "new", body()), "does not have"},
		"no key named":                    {sign(t, jose.RS256, s.rsa, "", body()), "does not name the key"},
		"a flipped bit of the claims":     {flipped(1), ""},
		"a flipped bit of the signature":  {flipped(2), "signature is wrong"},
		"another issuer":                  {good(with("iss", "https://example.org")), "its issuer is"},
		"no issuer":                       {good(without("iss")), "its issuer is"},
		"another audience":                {good(with("aud", []string{"https://kubernetes.default.svc"})), "ask for one with the audience baton"},
		"no audience":                     {good(without("aud")), "ask for one with the audience baton"},
		"expired":                         {good(with("exp", epoch.Unix())), "it expired 0s ago"},
		"no end":                          {good(without("exp")), "it never expires"},
		"an end too far to count":         {good(with("exp", 1e30)), "signature is wrong"},
		"not yet valid":                   {good(with("nbf", epoch.Add(time.Minute).Unix())), "it begins in 1m0s"},
		"a person":                        {good(without("kubernetes.io")), "not of a ServiceAccount"},
		"a subject of another":            {good(with("sub", "system:serviceaccount:shop:root")), "not of a ServiceAccount"},
		"too long":                        {good(with("x", strings.Repeat("x", maxTokenBytes))), "at most"},
		"two dots":                        {"..", "no JSON Web Token"},
		"nothing":                         {"", "no JSON Web Token"},
	} {
		if name == "a flipped bit of the claims" {
			test.refused = "signature is wrong"
		}
		who, err := v.Verify(t.Context(), test.token)
		if test.refused == "" {
			if err != nil || who.User != "system:serviceaccount:shop:web" || who.By != caller.ServiceAccount {
				t.Errorf("%s: %+v, %v", name, who, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.refused) || who != (caller.Caller{}) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
		if err != nil && len(test.token) > 20 && strings.Contains(err.Error(), test.token[10:20]) {
			t.Errorf("%s: the token is in the error: %v", name, err)
		}
	}
	who, err := v.Verify(t.Context(), good())
	if err != nil || who.Pod != "web-7f" || !who.Until.Equal(epoch.Add(time.Hour)) {
		t.Errorf("%+v, %v", who, err)
	}
}

// Whoever names keys that do not exist makes nobody ask for them again and again; a
// new key is found all the same.
func TestUnknownKeys(t *testing.T) {
	s := newServer(t)
	var now atomic.Pointer[time.Time]
	set := func(at time.Time) { now.Store(&at) }
	set(epoch)
	v := newVerifier(t, s, func(o *Options) { o.Now = func() time.Time { return *now.Load() } })
	flood := func() {
		var all sync.WaitGroup
		for i := range 100 {
			token := sign(t, jose.ES256, s.ec, fmt.Sprintf("unknown-%d", i), body())
			all.Go(func() {
				if _, err := v.Verify(t.Context(), token); err == nil {
					t.Error("an unknown key is known")
				}
			})
		}
		all.Wait()
	}
	flood()
	flood()
	if n := s.asked.Load(); n != 1 {
		t.Errorf("the API server was asked %d times", n)
	}
	fresh, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.keys = append(s.keys[1:], jose.JSONWebKey{Key: fresh.Public(), KeyID: "fresh"})
	s.mu.Unlock()
	token := sign(t, jose.ES256, fresh, "fresh", body())
	if _, err := v.Verify(t.Context(), token); err == nil {
		t.Error("the keys were asked for again at once")
	}
	set(epoch.Add(askAgain))
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Error(err)
	}
	if _, err := v.Verify(t.Context(), sign(t, jose.RS256, s.rsa, "rsa", body())); err == nil {
		t.Error("a key that was taken out counts")
	}
	if n := s.asked.Load(); n != 2 {
		t.Errorf("the API server was asked %d times", n)
	}
}

// An API server that is away stops nobody whose key is known; the first keys come
// when it is back.
func TestAPIServerIsAway(t *testing.T) {
	s := newServer(t)
	s.down.Store(true)
	now := epoch
	v := newVerifier(t, s, func(o *Options) { o.Now = func() time.Time { return now } })
	token := sign(t, jose.ES256, s.ec, "ec", body())
	if _, err := v.Verify(t.Context(), token); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("without keys: %v", err)
	}
	v.keys.tasks.Wait()
	s.down.Store(false)
	now = now.Add(askAgain)
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Error(err)
	}
	v.keys.tasks.Wait()
	s.down.Store(true)
	now = now.Add(keysAge)
	if _, err := v.Verify(t.Context(), sign(t, jose.RS256, s.rsa, "rsa", body())); err != nil {
		t.Errorf("with old keys: %v", err)
	}
	v.keys.tasks.Wait()
}

// A token that was checked is known for a while, but not beyond its end, and never
// in clear; what is known has a bound.
func TestRemembered(t *testing.T) {
	s := newServer(t)
	now := epoch
	v := newVerifier(t, s, func(o *Options) { o.Now = func() time.Time { return now } })
	token := sign(t, jose.ES256, s.ec, "ec", body(with("exp", epoch.Add(time.Minute).Unix())))
	verify := func() error { _, err := v.Verify(t.Context(), token); return err }
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	v.keys.mu.Lock()
	v.keys.set = nil // It would have to be asked for again.
	v.keys.mu.Unlock()
	if err := verify(); err != nil {
		t.Errorf("it is not remembered: %v", err)
	}
	now = now.Add(time.Minute)
	if err := verify(); err == nil {
		t.Error("an expired token is remembered")
	}
	for i := range 2 * maxRemembered {
		v.remember([32]byte{byte(i), byte(i >> 8), 1}, verified{until: now.Add(time.Hour)}, now)
	}
	if n := len(v.known); n != maxRemembered {
		t.Errorf("%d tokens are remembered", n)
	}
}

// By option the API server is asked, about tokens that are good as far as can be
// seen; no answer is no yes.
func TestReview(t *testing.T) {
	s := newServer(t)
	reviews := 0
	answer := func() (string, error) { return "system:serviceaccount:shop:web", nil }
	now := epoch
	v := newVerifier(t, s, func(o *Options) {
		o.Now = func() time.Time { return now }
		o.Review = func(_ context.Context, _, audience string) (string, error) {
			reviews++
			if audience != "baton" {
				t.Errorf("the audience is %q", audience)
			}
			return answer()
		}
	})
	good, bad := sign(t, jose.ES256, s.ec, "ec", body()), sign(t, jose.ES256, s.ec, "ec", body(with("aud", "x")))
	verify := func(token string) error { _, err := v.Verify(t.Context(), token); return err }
	for range 3 {
		if err := verify(good); err != nil {
			t.Fatal(err)
		}
		if err := verify(bad); err == nil {
			t.Fatal("a token for another audience is accepted")
		}
	}
	if reviews != 1 {
		t.Errorf("the API server was asked %d times", reviews)
	}
	now = now.Add(reviewed)
	answer = func() (string, error) { return "", errors.New("the pod is gone") }
	if err := verify(good); err == nil || !strings.Contains(err.Error(), "the pod is gone") {
		t.Errorf("a token of a pod that is gone: %v", err)
	}
	answer = func() (string, error) { return "system:serviceaccount:shop:root", nil }
	if err := verify(good); err == nil {
		t.Error("the API server says another name")
	}
}
