package kubernetes

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// flakyServer is an API server that answers with errors until it is up, and
// hangs when it is told to.
type flakyServer struct {
	*httptest.Server
	up, hangs atomic.Bool
	refused   atomic.Int64
	patched   atomic.Value // the body of the last patch
}

func newFlakyServer(t *testing.T) *flakyServer {
	t.Helper()
	s := &flakyServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *flakyServer) serve(w http.ResponseWriter, r *http.Request) {
	if s.hangs.Load() {
		<-r.Context().Done()
		return
	}
	if !s.up.Load() {
		s.refused.Add(1)
		http.Error(w, "etcdserver: leader changed", http.StatusInternalServerError)
		return
	}
	if r.Method == http.MethodPatch {
		body, _ := io.ReadAll(r.Body)
		s.patched.Store(string(body))
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"kv","uid":"u"},"spec":{"replicas":3}}`)
}

func (s *flakyServer) pod(t *testing.T, name string) *Pod {
	t.Helper()
	client, err := dynamic.NewForConfig(&rest.Config{Host: s.URL, QPS: 1000, Burst: 1000})
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{Client: client, Namespace: namespace, Name: name, Interval: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// An API server that errs or hangs makes nothing known, and holds nobody up.
func TestOrdinalsFromAnAPIThatFails(t *testing.T) {
	server := newFlakyServer(t)
	p := server.pod(t, "kv-0")
	if _, err := p.ReadOrdinals(t.Context()); err == nil {
		t.Error("an answer from an error")
	}
	server.hangs.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.ReadOrdinals(ctx); err == nil {
		t.Error("an answer from silence")
	}
	server.hangs.Store(false)
	server.up.Store(true)
	if o, err := p.ReadOrdinals(t.Context()); err != nil || o.Replicas != 3 {
		t.Errorf("%+v, %v", o, err)
	}
}
