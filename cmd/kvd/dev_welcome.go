package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

const (
	// readyPoll is how often the pods are asked whether they are ready.
	readyPoll = 100 * time.Millisecond
	// readyAsk bounds one question.
	readyAsk = time.Second
)

// awaitReady returns true when all pods are ready, false when ctx ends before.
func (c *devConfig) awaitReady(ctx context.Context) bool {
	for i := range c.nodes {
		for !ready(ctx, c.address(i, 2)) {
			select {
			case <-ctx.Done():
				return false
			case <-time.After(readyPoll):
			}
		}
	}
	return true
}

func ready(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, readyAsk)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = response.Body.Close() // It was not read.
	return response.StatusCode == http.StatusOK
}

// welcome says where everything is and what to try next.
func (c *devConfig) welcome(terminal *lines) {
	say := func(format string, args ...any) { terminal.print("dev", fmt.Sprintf(format, args...)) }
	say("")
	say("the cluster is ready, its data is in %s", c.dataDir)
	say("")
	say("  pod    clients           HTTP: /readyz?verbose /metrics")
	for i := range c.nodes {
		say("  %-5s  %-16s  http://%s", c.pod(i), c.address(i, 0), c.address(i, 2))
	}
	say("")
	say("try, in another terminal:")
	endpoints := ""
	if c.basePort != 7400 {
		endpoints = " --endpoints " + c.address(0, 0)
	}
	for _, command := range []string{"put greeting hello", "get greeting", "status"} {
		say("  bin/kvctl%s %s", endpoints, command)
	}
	if c.nodes > 1 {
		say("and kill -9 one of the processes above: the others go on, and it comes back.")
	}
	say("Ctrl-C stops all of it.")
	say("")
}
