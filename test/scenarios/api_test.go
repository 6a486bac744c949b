//go:build linux

package scenarios

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// api is as much of a Kubernetes API as kvd asks: one namespace, with one
// StatefulSet, its record, and pods that take any label.
type api struct {
	server *httptest.Server
	// uid is the namespace's.
	uid string

	mu              sync.Mutex // guards the fields below
	start, replicas int
	deleted, away   bool
	record          map[string]any // nil: there is none
	secret          map[string]any // with the CA of the peer port; nil: there is none
	version         int
	labels          map[string]any // Of each pod.
}

func newAPI(t *testing.T, uid string, start, replicas int) *api {
	a := &api{uid: uid, start: start, replicas: replicas, labels: map[string]any{}}
	a.secret = a.object("v1", "Secret", "kv-peer-ca", "secret-"+uid)
	a.server = httptest.NewTLSServer(a)
	t.Cleanup(a.server.Close)
	return a
}

// ServeHTTP implements http.Handler.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	status, object := http.StatusOK, map[string]any(nil)
	switch path := r.URL.Path; {
	case path == "/api/v1/namespaces/"+namespace:
		object = a.object("v1", "Namespace", namespace, a.uid)
	case strings.HasSuffix(path, "/statefulsets/kv") && !a.deleted:
		object = a.object("apps/v1", "StatefulSet", "kv", "set-"+a.uid)
		object["spec"] = map[string]any{"replicas": a.replicas, "ordinals": map[string]any{"start": a.start}}
	case strings.Contains(path, "/configmaps"):
		status, object = a.serveKept(r, &a.record)
	case strings.HasSuffix(path, "/secrets/kv-peer-ca"):
		status, object = a.serveKept(r, &a.secret)
	case strings.Contains(path, "/pods/"):
		object = a.servePod(r, strings.TrimSuffix(path[strings.LastIndex(path, "/pods/")+len("/pods/"):], "/status"))
	}
	if a.away {
		status = http.StatusServiceUnavailable
	}
	if object == nil {
		status, object = max(status, http.StatusNotFound), nil
	}
	if status >= http.StatusBadRequest {
		reasons := map[int]string{http.StatusNotFound: "NotFound", http.StatusConflict: "Conflict"}
		if r.Method == http.MethodPost {
			reasons[http.StatusConflict] = "AlreadyExists"
		}
		object = map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": status, "reason": reasons[status]}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(object) //nolint:errcheck // Who asks asks again.
}

func (a *api) object(version, kind, name, uid string) map[string]any {
	return map[string]any{"apiVersion": version, "kind": kind,
		"metadata": map[string]any{"name": name, "namespace": namespace, "uid": uid}}
}

// servePod keeps the labels that a pod gives itself.
func (a *api) servePod(r *http.Request, name string) map[string]any {
	if r.Method == http.MethodPatch {
		var patch struct {
			Metadata struct{ Labels map[string]any }
		}
		if json.NewDecoder(r.Body).Decode(&patch) == nil {
			a.labels[name] = patch.Metadata.Labels
		}
	}
	object := a.object("v1", "Pod", name, "pod")
	object["metadata"].(map[string]any)["labels"] = a.labels[name]
	return object
}

// serveKept keeps one object, created once and updated by who has read it.
func (a *api) serveKept(r *http.Request, kept *map[string]any) (status int, object map[string]any) {
	if r.Method == http.MethodGet {
		return http.StatusOK, *kept
	}
	if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
		return http.StatusBadRequest, nil
	}
	metadata := object["metadata"].(map[string]any)
	before := any(nil)
	if *kept != nil {
		before = (*kept)["metadata"].(map[string]any)["resourceVersion"]
	}
	if r.Method == http.MethodPost && *kept != nil || r.Method == http.MethodPut && metadata["resourceVersion"] != before {
		return http.StatusConflict, nil
	}
	a.version++
	metadata["resourceVersion"] = strconv.Itoa(a.version)
	*kept = object
	return http.StatusOK, object
}

// cluster is what the record names.
func (a *api) cluster() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.record == nil {
		return ""
	}
	return fmt.Sprint(a.record["data"].(map[string]any)["cluster"])
}

// emptySecret is a person who wants another CA.
func (a *api) emptySecret() {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.secret, "data")
	a.version++
	a.secret["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(a.version)
}

func (a *api) scale(replicas int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.replicas = replicas
}

// setAway makes every call fail, or no call.
func (a *api) setAway(away bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = away
}

// remove deletes the StatefulSet and its record; restore makes it again.
func (a *api) remove() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deleted, a.record = true, nil
}

func (a *api) restore() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deleted = false
}
