package pki

import (
	"crypto/x509"
	"log/slog"
	"time"
)

// A person is warned this long before a certificate ends; one that is issued for a
// shorter time, when a quarter and when a twelfth of it is left.
const (
	warnFirst = 30 * 24 * time.Hour
	warnLast  = 7 * 24 * time.Hour
)

// warn says once each that a certificate ends in a month, in a week, and has ended.
func (f *Files) warn() {
	f.mu.Lock()
	m := f.material
	var due []func()
	for i, c := range []*x509.Certificate{m.Certificate.Leaf, firstOf(m.CAs)} {
		if c == nil {
			continue
		}
		file := []string{FileCertificate, FileCA}[i]
		stage := stageOf(f.opts.Now(), c.NotBefore, c.NotAfter)
		if stage > f.warned[i] {
			due = append(due, func() { f.say(stage, file, c.NotAfter) })
		}
		f.warned[i] = stage
	}
	f.mu.Unlock()
	for _, say := range due {
		say()
	}
}

// stageOf is 0 while a certificate has long to go, and 3 when it has ended.
func stageOf(now, begins, ends time.Time) int {
	life, left := ends.Sub(begins), ends.Sub(now)
	switch {
	case left <= 0:
		return 3
	case left <= min(warnLast, life/12):
		return 2
	case left <= min(warnFirst, life/4):
		return 1
	}
	return 0
}

func (f *Files) say(stage int, file string, ends time.Time) {
	attributes := []any{
		slog.String("file", file), slog.String("directory", f.dir), slog.String("ends", ends.UTC().Format(time.RFC3339)),
	}
	if stage == 3 {
		f.opts.Logger.Error("a certificate has ended: no new connection is accepted with it; put a new one in its place, it is read within seconds", attributes...)
		return
	}
	f.opts.Logger.Warn("a certificate ends soon: put a new one in its place, it is read within seconds",
		append(attributes, slog.Duration("left", ends.Sub(f.opts.Now()).Round(time.Minute)))...)
}
