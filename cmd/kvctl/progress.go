package main

import (
	"fmt"
	"strings"
	"time"
)

const (
	progressWidth    = 30
	progressInterval = 100 * time.Millisecond
)

// progress is a bar on standard error, on a terminal only.
type progress struct {
	app         *app
	what        string
	done, total int64
	started     time.Time
	drawn       time.Time
	shown       bool
}

func (a *app) newProgress(what string, total int64) *progress {
	return &progress{app: a, what: what, total: total, started: time.Now()}
}

func (p *progress) add(n int64) {
	p.set(p.done + n)
}

func (p *progress) set(done int64) {
	p.done = done
	if p.app.errTerminal && time.Since(p.drawn) >= progressInterval {
		p.draw()
	}
}

func (p *progress) draw() {
	p.drawn, p.shown = time.Now(), true
	rate := float64(p.done) / max(time.Since(p.started).Seconds(), 0.001)
	fmt.Fprintf(p.app.err, "\r%s %s %s of %s, %s/s\x1b[K", p.what, bar(p.done, p.total), size(p.done), size(p.total), size(int64(rate)))
}

// bar draws how much is done. The total is an estimate, and may be exceeded.
func bar(done, total int64) string {
	part := progressWidth
	if total > 0 && done < total {
		part = int(done * progressWidth / total)
	}
	return "[" + strings.Repeat("=", part) + strings.Repeat(" ", progressWidth-part) + "]"
}

// end leaves the bar as it is and goes on to the next line.
func (p *progress) end() {
	if p.shown {
		p.draw()
		fmt.Fprintln(p.app.err)
		p.shown = false
	}
}
