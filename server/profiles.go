package server

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/batondb/baton/internal/refusal"
)

// profiles are what a person asks to see what the process does. They cost: a
// collection of garbage for a heap profile stops others' writes. So only this machine
// gets them, which in Kubernetes is whoever may forward a port to the pod, and
// administrators.
type profiles struct {
	core       *core
	running    chan struct{} // Has room for as many as may run.
	began      time.Time
	lastForced atomic.Int64 // Since began, of the last forced collection; 0: none.
}

func newProfiles(c *core) *profiles {
	return &profiles{core: c, running: make(chan struct{}, maxProfiles), began: time.Now()}
}

func (p *profiles) register(mux listedMux) {
	for path, show := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/cmdline": pprof.Cmdline, "/debug/pprof/profile": pprof.Profile,
		"/debug/pprof/symbol": pprof.Symbol, "/debug/pprof/trace": pprof.Trace,
	} {
		mux.HandleFunc(path, p.guard(show))
	}
}

// guard refuses strangers, more than a few at once, those that would take too long, and
// collections of garbage that follow each other.
func (p *profiles) guard(show http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !fromThisMachine(r) && !p.admit(w, r) {
			return
		}
		select {
		case p.running <- struct{}{}:
			defer func() { <-p.running }()
		default:
			http.Error(w, fmt.Sprintf("%d profiles are being taken already, as many as may be", maxProfiles), http.StatusTooManyRequests)
			return
		}
		lasts, err := lasting(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if gc := r.FormValue("gc"); gc != "" && gc != "0" && !p.mayCollect() {
			http.Error(w, fmt.Sprintf("garbage is collected on demand every %s at most: leave gc out", forcedGCInterval), http.StatusTooManyRequests)
			return
		}
		// A profile takes as long as it was asked to. An error: there is no deadline.
		end := time.Now().Add(lasts + profileTimeout)
		_ = http.NewResponseController(w).SetReadDeadline(end)
		_ = http.NewResponseController(w).SetWriteDeadline(end)
		show(w, r)
	}
}

// lasting is how long a profile is asked to last, if it is.
func lasting(r *http.Request) (time.Duration, error) {
	text := r.FormValue("seconds")
	if text == "" {
		return 0, nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if limit := maxProfile.Seconds(); err != nil || !(seconds >= 0 && seconds <= limit) {
		return 0, fmt.Errorf("seconds=%q: a profile takes 0 to %.0f seconds", text, limit)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// admit says whether a request from elsewhere is an administrator's; if not, it answers.
func (p *profiles) admit(w http.ResponseWriter, r *http.Request) bool {
	who, err := p.core.administrates(r)
	if err == nil {
		p.core.options.Logger.Info("an administrator takes a profile",
			slog.String("user", who.User), slog.String("address", r.RemoteAddr), slog.String("path", r.URL.Path))
		return true
	}
	code := http.StatusForbidden
	if refusal.Code(err) == codes.Unauthenticated {
		code = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	http.Error(w, "profiles are for this machine: run kubectl port-forward POD 7402 and open http://127.0.0.1:7402/debug/pprof/. "+
		"From elsewhere they are for users with the role root: "+err.Error(), code)
	return false
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
