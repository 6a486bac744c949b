package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// getFrom asks the HTTP port from an address.
func getFrom(handler http.Handler, address, path string) (int, string) {
	request := httptest.NewRequest(http.MethodGet, path, nil)
	request.RemoteAddr = address
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
	p := newProfiles()
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
