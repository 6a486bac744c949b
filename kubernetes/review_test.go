package kubernetes

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// Only a clear yes, for this audience, is one.
func TestReview(t *testing.T) {
	const user = "system:serviceaccount:shop:web"
	for name, c := range map[string]struct {
		status  map[string]any
		refused string
	}{
		"good":                 {map[string]any{"authenticated": true, "audiences": []any{"baton"}, "user": map[string]any{"username": user}}, ""},
		"not good":             {map[string]any{"error": "the pod is gone"}, "not good"},
		"an answer of nothing": {nil, "not good"},
		"another audience":     {map[string]any{"authenticated": true, "audiences": []any{"x"}, "user": map[string]any{"username": user}}, "for baton"},
		"no audience":          {map[string]any{"authenticated": true, "user": map[string]any{"username": user}}, "for baton"},
	} {
		client := api(t)
		client.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
			asked := action.(clienttesting.CreateAction).GetObject().(*unstructured.Unstructured)
			if token, _, _ := unstructured.NestedString(asked.Object, "spec", "token"); token != "a.b.c" {
				t.Errorf("the token is %q", token)
			}
			if c.status != nil {
				asked.Object["status"] = c.status
			}
			return true, asked, nil
		})
		got, err := newPod(t, client, "kv-0").Review(t.Context(), "a.b.c", "baton")
		if c.refused == "" && (err != nil || got != user) || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestRead(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/openid/v1/jwks":
			_, _ = w.Write([]byte(`{"keys":[]}`))
		case "/large":
			_, _ = w.Write(make([]byte, maxDocumentBytes+1))
		default:
			w.WriteHeader(http.StatusForbidden)
		}
	}))
	defer server.Close()
	p := newPod(t, api(t), "kv-0")
	if _, err := p.Read(t.Context(), "/openid/v1/jwks"); err == nil {
		t.Error("nobody was asked, and there is an answer")
	}
	p.opts.Read = reader(server.Client(), server.URL)
	if text, err := p.Read(t.Context(), "/openid/v1/jwks"); err != nil || string(text) != `{"keys":[]}` {
		t.Errorf("%q, %v", text, err)
	}
	for _, path := range []string{"/large", "/other"} {
		if text, err := p.Read(t.Context(), path); err == nil {
			t.Errorf("%s: %d bytes", path, len(text))
		}
	}
}
