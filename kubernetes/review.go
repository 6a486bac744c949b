package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var tokenReviews = schema.GroupVersionResource{Group: "authentication.k8s.io", Version: "v1", Resource: "tokenreviews"}

// maxDocumentBytes of what is not an object: keys and issuers are some kilobytes.
const maxDocumentBytes = 1 << 20

// reader reads documents of the API server that are no objects, as this pod's
// ServiceAccount.
func reader(client *http.Client, host string) func(context.Context, string) ([]byte, error) {
	return func(ctx context.Context, path string) ([]byte, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, host+path, nil)
		if err != nil {
			return nil, err
		}
		response, err := client.Do(request)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close() //nolint:errcheck // It was only read.
		if response.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %s", path, response.Status)
		}
		text, err := io.ReadAll(io.LimitReader(response.Body, maxDocumentBytes+1))
		if err == nil && len(text) > maxDocumentBytes {
			err = fmt.Errorf("%s has more than %d bytes", path, maxDocumentBytes)
		}
		return text, err
	}
}

// Read reads a document of the API server that is no object, such as its keys.
func (p *Pod) Read(ctx context.Context, path string) ([]byte, error) {
	if p.opts.Read == nil {
		return nil, errors.New("the API server cannot be asked")
	}
	return p.opts.Read(ctx, path)
}

// Review asks whether a token is good, and whose it is: a TokenReview, which needs the
// ClusterRole system:auth-delegator.
func (p *Pod) Review(ctx context.Context, token, audience string) (user string, err error) {
	answer, err := p.opts.Client.Resource(tokenReviews).Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"spec": map[string]any{"token": token, "audiences": []any{audience}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	good, _, _ := unstructured.NestedBool(answer.Object, "status", "authenticated")
	audiences, _, _ := unstructured.NestedStringSlice(answer.Object, "status", "audiences")
	user, _, _ = unstructured.NestedString(answer.Object, "status", "user", "username")
	switch {
	case !good:
		return "", errors.New("the token is not good, or no more")
	case !slices.Contains(audiences, audience):
		// As of an API server that knows of no audiences.
		return "", fmt.Errorf("it does not say that the token is for %s", audience)
	}
	return user, nil
}
