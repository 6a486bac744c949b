package kubernetes

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// How far the clock is ahead is measured with each answer that says the time.
func TestClockAhead(t *testing.T) {
	date := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Date", date) }))
	defer server.Close()
	c := &clock{RoundTripper: http.DefaultTransport}
	ask := func(says string) (time.Duration, bool) {
		t.Helper()
		date = says
		response, err := (&http.Client{Transport: c}).Get(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return c.known()
	}
	if ahead, known := c.known(); known {
		t.Errorf("before the first answer: %s", ahead)
	}
	if ahead, known := ask("a quarter past"); known {
		t.Errorf("after an answer that does not say the time: %s", ahead)
	}
	for _, want := range []time.Duration{time.Hour, -time.Hour, 0} {
		ahead, known := ask(time.Now().Add(-want).UTC().Format(http.TimeFormat))
		if !known || (ahead-want).Abs() > 30*time.Second { // So long this machine may be stuck.
			t.Errorf("%s ahead: it says %s, %t", want, ahead, known)
		}
	}
	p := newPod(t, api(t), "kv-0")
	if _, known := p.ClockAhead(); known {
		t.Error("a pod that asks no API server knows its time")
	}
}
