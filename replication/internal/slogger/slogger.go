package slogger

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const repeatAfter = time.Second

// maxLines bounds the memory of what was said; the library has about 200 lines.
const maxLines = 1024

type adapter struct {
	to      *slog.Logger
	name    string
	args    []any
	limiter *limiter
}

type limiter struct {
	mu   sync.Mutex // guards said
	said map[string]time.Time
}

// New wraps l.
func New(l *slog.Logger) hclog.Logger {
	return &adapter{to: l, limiter: &limiter{said: map[string]time.Time{}}}
}

func (l *limiter) allow(msg string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.said[msg]) < repeatAfter {
		return false
	}
	if len(l.said) >= maxLines {
		clear(l.said)
	}
	l.said[msg] = now
	return true
}

func level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.Warn:
		return slog.LevelInfo
	case hclog.Info:
		return slog.LevelDebug
	default:
		return slog.LevelDebug - 4
	}
}

func (a *adapter) Log(l hclog.Level, msg string, args ...any) {
	at := level(l)
	if !a.to.Enabled(context.Background(), at) || !a.limiter.allow(msg) {
		return
	}
	all := append(append([]any{}, a.args...), args...)
	for i := range all {
		if f, ok := all[i].(hclog.Format); ok && len(f) > 0 {
			all[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	a.to.Log(context.Background(), at, msg, all...)
}

func (a *adapter) Trace(msg string, args ...any) { a.Log(hclog.Trace, msg, args...) }
func (a *adapter) Debug(msg string, args ...any) { a.Log(hclog.Debug, msg, args...) }
func (a *adapter) Info(msg string, args ...any)  { a.Log(hclog.Info, msg, args...) }
func (a *adapter) Warn(msg string, args ...any)  { a.Log(hclog.Warn, msg, args...) }
func (a *adapter) Error(msg string, args ...any) { a.Log(hclog.Error, msg, args...) }

func (a *adapter) enabled(l hclog.Level) bool {
	return a.to.Enabled(context.Background(), level(l))
}
func (a *adapter) IsTrace() bool      { return a.enabled(hclog.Trace) }
func (a *adapter) IsDebug() bool      { return a.enabled(hclog.Debug) }
func (a *adapter) IsInfo() bool       { return a.enabled(hclog.Info) }
func (a *adapter) IsWarn() bool       { return a.enabled(hclog.Warn) }
func (a *adapter) IsError() bool      { return a.enabled(hclog.Error) }
func (a *adapter) ImpliedArgs() []any { return a.args }
func (a *adapter) Name() string       { return a.name }

func (a *adapter) With(args ...any) hclog.Logger {
	return &adapter{to: a.to, name: a.name, args: append(append([]any{}, a.args...), args...), limiter: a.limiter}
}

func (a *adapter) Named(name string) hclog.Logger      { return a.ResetNamed(name) }
func (a *adapter) ResetNamed(name string) hclog.Logger { b := *a; b.name = name; return &b }
func (a *adapter) SetLevel(hclog.Level)                {}
func (a *adapter) GetLevel() hclog.Level               { return hclog.Info }

func (a *adapter) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(a.to.Handler(), slog.LevelDebug)
}

func (a *adapter) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return a.StandardLogger(o).Writer()
}
