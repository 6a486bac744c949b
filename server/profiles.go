package server

import (
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"
	"time"
)

// profiles are what a person asks to see what the process does. They cost: a
// collection of garbage for a heap profile stops others' writes. So only this machine
// gets them, which in Kubernetes is whoever may forward a port to the pod.
type profiles struct {
	running    chan struct{} // Has room for as many as may run.
	began      time.Time
	lastForced atomic.Int64 // Since began, of the last forced collection; 0: none.
}

func newProfiles() *profiles {
	return &profiles{running: make(chan struct{}, maxProfiles), began: time.Now()}
}

func (p *profiles) register(mux listedMux) {
	for path, show := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
	} {
		mux.HandleFunc(path, p.guard(show))
	}
}

// guard refuses other machines, more than a few at once, and collections of garbage
// that follow each other.
func (p *profiles) guard(show http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !fromThisMachine(r) {
			http.Error(w, "profiles are only for this machine: run kubectl port-forward POD 7402 and "+
				"open http://127.0.0.1:7402/debug/pprof/", http.StatusForbidden)
			return
		}
		select {
		case p.running <- struct{}{}:
			defer func() { <-p.running }()
		default:
			http.Error(w, fmt.Sprintf("%d profiles are being taken already, as many as may be", maxProfiles), http.StatusTooManyRequests)
			return
		}
		if gc := r.FormValue("gc"); gc != "" && gc != "0" && !p.mayCollect() {
			http.Error(w, fmt.Sprintf("garbage is collected on demand every %s at most: leave gc out", forcedGCInterval), http.StatusTooManyRequests)
			return
		}
		// A profile takes as long as it was asked to. An error: there is no deadline.
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		show(w, r)
	}
}

func (p *profiles) mayCollect() bool {
	now, last := int64(time.Since(p.began))+1, p.lastForced.Load()
	return (last == 0 || now-last >= int64(forcedGCInterval)) && p.lastForced.CompareAndSwap(last, now)
}

// fromThisMachine says that a request came over the loopback interface.
func fromThisMachine(r *http.Request) bool {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}
