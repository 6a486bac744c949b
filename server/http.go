package server

import (
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// handler is the HTTP port: probes, metrics, profiles and a page for people.
func (s *Server) handler() http.Handler {
	mux := listedMux{http.NewServeMux()}
	mux.HandleFunc("GET /livez", s.livez)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.options.Registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(s.options.Logger.Handler(), slog.LevelWarn),
		MaxRequestsInFlight: maxScrapes,
	}))
	newProfiles(s.core).register(mux)
	mux.HandleFunc("GET /{$}", s.page)
	return answerSoon(mux)
}

// listedMux serves what the table of needs has, and nothing else.
type listedMux struct{ *http.ServeMux }

func (m listedMux) Handle(pattern string, handler http.Handler) {
	if needs[pattern] != denied {
		m.ServeMux.Handle(pattern, handler)
	}
}

func (m listedMux) HandleFunc(pattern string, handle func(http.ResponseWriter, *http.Request)) {
	m.Handle(pattern, http.HandlerFunc(handle))
}

// answerSoon ends connections whose clients do not read their answers.
func answerSoon(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// An error: the connection has no deadlines.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(webTimeout))
		handler.ServeHTTP(w, r)
	})
}

// livez is true while the process turns: a restart would not help against a
// missing quorum, a slow disk or an absent peer, and would harm a clone.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) {
	if s.readiness.alive() {
		fmt.Fprintln(w, "ok")
		return
	}
	http.Error(w, fmt.Sprintf("the process had no turn for %s", beatPatience), http.StatusServiceUnavailable)
}

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	because := s.readiness.because()
	if len(because) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if !r.URL.Query().Has("verbose") {
		if len(because) == 0 {
			fmt.Fprintln(w, "ok")
		} else {
			fmt.Fprintf(w, "not ready: %s\n", strings.Join(because, "; "))
		}
		return
	}
	fmt.Fprintf(w, "ready: %t\n", len(because) == 0)
	for _, why := range because {
		fmt.Fprintf(w, "because: %s\n", why)
	}
	own := s.cluster.ownStatus(r.Context())
	fmt.Fprintf(w, "pod: %s\nmember: %s\nrole: %s\nterm: %d\napplied: %d\nrevision: %d\n",
		own.GetName(), own.GetMemberId(), own.GetRole(), own.GetTerm(), own.GetAppliedIndex(), own.GetRevision())
	if log := s.core.log.Load(); log != nil {
		status := (*log).Status()
		fmt.Fprintf(w, "master: %s\ncommitted: %d\n", status.Master, status.Commit)
		if clone := status.Clone; clone != nil {
			fmt.Fprintf(w, "clone: from %s, %d of %d bytes, %d bytes a second\n", clone.Source, clone.Bytes, clone.Total, clone.BytesPerSecond)
		}
	}
	for _, note := range s.readiness.notes.all() {
		fmt.Fprintln(w, note)
	}
	for _, alarm := range own.GetAlarms() {
		fmt.Fprintf(w, "alarm: %s\n", alarm)
	}
}

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html>
<title>{{.GetName}}</title>
<h1>{{.GetName}}</h1>
<p>Baton {{.GetVersion}}, {{.GetRole}}, {{if .GetReady}}ready{{else}}not ready: {{.GetNotReadyBecause}}{{end}}</p>
<p>Clients: {{.GetClientAddress}}</p>
<p><a href="/readyz?verbose">readyz</a> <a href="/livez">livez</a> <a href="/metrics">metrics</a> <a href="/debug/pprof/">pprof</a></p>
`))

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	// An error is the reader's: the connection ended.
	_ = pageTemplate.Execute(w, s.cluster.ownStatus(r.Context()))
}
