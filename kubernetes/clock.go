package kubernetes

import (
	"net/http"
	"sync/atomic"
	"time"
)

// clock compares this machine's clock with the API server's, which says the time with each
// answer.
type clock struct {
	http.RoundTripper
	ahead atomic.Pointer[time.Duration] // How far this one was, by the last answer; nil: not known.
}

// RoundTrip implements http.RoundTripper.
func (c *clock) RoundTrip(request *http.Request) (*http.Response, error) {
	asked := time.Now()
	response, err := c.RoundTripper.RoundTrip(request)
	if err != nil {
		return response, err
	}
	if at, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		// The answer was given in between, in the second that begins with what it says.
		middle := asked.Add(time.Since(asked) / 2)
		ahead := middle.Sub(at.Add(time.Second / 2))
		c.ahead.Store(&ahead)
	}
	return response, nil
}

// ClockAhead is how far the clock of this machine is ahead of the API server's, within a
// few seconds; false: that is not known.
func (p *Pod) ClockAhead() (ahead time.Duration, known bool) {
	if p.opts.ClockAhead == nil {
		return 0, false
	}
	return p.opts.ClockAhead()
}

func (c *clock) known() (ahead time.Duration, known bool) {
	last := c.ahead.Load()
	if last == nil {
		return 0, false
	}
	return *last, true
}
