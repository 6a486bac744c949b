package server

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/batondb/baton/internal/caller"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

const unauthenticated = kvv1.ErrorReason_ERROR_REASON_UNAUTHENTICATED

// Whom a certificate names; a gateway's header names nobody.
func TestCertificateCaller(t *testing.T) {
	uri, err := url.Parse("spiffe://example.org/ns/shop/sa/web")
	if err != nil {
		t.Fatal(err)
	}
	account, err := url.Parse("system:serviceaccount:shop:web")
	if err != nil {
		t.Fatal(err)
	}
	both := &x509.Certificate{URIs: []*url.URL{uri}, Subject: pkix.Name{CommonName: "alice"}}
	alone := &x509.Certificate{Subject: pkix.Name{CommonName: "alice"}, DNSNames: []string{"root"}}
	for _, test := range []struct {
		leaf       *x509.Certificate
		commonName bool
		user       string
	}{
		{both, false, uri.String()},
		{both, true, uri.String()},
		{alone, false, ""},
		{alone, true, "alice"},
		{&x509.Certificate{DNSNames: []string{"root"}}, true, ""},
		{&x509.Certificate{URIs: []*url.URL{account}, Subject: pkix.Name{CommonName: "alice"}}, true, ""},
		{&x509.Certificate{Subject: pkix.Name{CommonName: account.String()}}, true, ""},
	} {
		who := Security{CommonName: test.commonName}.certificateCaller(test.leaf)
		if who.User != test.user || (who.By == caller.Certificate) != (test.user != "") {
			t.Errorf("%v, common name %t: %+v", test.leaf.Subject, test.commonName, who)
		}
	}
}

// A token that proves nothing ends unary calls and streams alike, and nobody reads
// it in an error. What is no JSON Web Token is left to others.
func TestTokens(t *testing.T) {
	var seen caller.Caller
	p := newPod(t, "kv-0", func(o *Options) {
		o.Security.Token = func(_ context.Context, token string) (caller.Caller, error) {
			if token != "good.to.ken" {
				return caller.Caller{}, errors.New("it has expired")
			}
			return caller.Caller{User: "system:serviceaccount:shop:web", By: caller.ServiceAccount}, nil
		}
	}).use()
	p.log.propose = func(ctx context.Context, command *kvv1.Command) (*kvv1.Result, error) {
		seen = caller.From(ctx)
		return p.store.apply(command), nil
	}
	put := func(pairs ...string) error {
		ctx := metadata.AppendToOutgoingContext(within5s(t), pairs...)
		seen = caller.Caller{}
		_, err := p.kv().Put(ctx, &kvv1.PutRequest{Key: []byte("k")})
		return err
	}
	for _, pairs := range [][]string{{"authorization", "Bearer good.to.ken"}, {"token", "good.to.ken"}} {
		if err := put(pairs...); err != nil || seen.User != "system:serviceaccount:shop:web" || seen.By != caller.ServiceAccount {
			t.Errorf("%v: %+v, %v", pairs, seen, err)
		}
	}
	for _, pairs := range [][]string{nil, {"authorization", "Basic good.to.ken"}, {"token", "abc.12"}, {"x-remote-user", "root"}} {
		if err := put(pairs...); err != nil || seen != (caller.Caller{}) {
			t.Errorf("%v: %+v, %v", pairs, seen, err)
		}
	}
	err := put("authorization", "Bearer secret.to.ken")
	wantReason(t, err, unauthenticated)
	if !strings.Contains(err.Error(), "it has expired") || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	ctx := metadata.AppendToOutgoingContext(within5s(t), "authorization", "Bearer secret.to.ken")
	stream, err := p.kv().Scan(ctx, &kvv1.ScanRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	wantReason(t, err, unauthenticated)
}

// A pod that cannot check a token does not act as if none had come.
func TestTokensThatNobodyChecks(t *testing.T) {
	p := newPod(t, "kv-0").use()
	ctx := metadata.AppendToOutgoingContext(within5s(t), "authorization", "Bearer good.to.ken")
	_, err := p.kv().Put(ctx, &kvv1.PutRequest{Key: []byte("k")})
	wantReason(t, err, unauthenticated)
}
