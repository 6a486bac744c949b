package recovery

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/batondb/baton/internal/sleep"
)

const (
	requestName = "recover.request"
	answerName  = "recover.answer"
	// poll is how often either side looks.
	poll = 500 * time.Millisecond
	// takenWithin is how long a running pod may need to see a request.
	takenWithin = 15 * time.Second
	// answeredWithin allows for copying a large database on a slow disk.
	answeredWithin = time.Hour
)

// request is what a person asks.
type request struct {
	// Lost are the pods that the person says have lost their data.
	Lost []string `json:"lost"`
}

// answer is what the running pod says.
type answer struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// Request asks the process that has dir open to recover, and returns its answer,
// which may take as long as copying the database.
func Request(ctx context.Context, dir string, lost []string) (string, error) {
	if err := os.Remove(filepath.Join(dir, answerName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	path := filepath.Join(dir, requestName)
	if err := write(path, request{lost}); err != nil {
		return "", err
	}
	defer os.Remove(path) //nolint:errcheck // It is gone when it was taken.
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, answeredWithin)
	defer cancel()
	for {
		var said answer
		switch taken, err := take(filepath.Join(dir, answerName), &said); {
		case err != nil:
			return "", err
		case taken && !said.OK:
			return "", errors.New(said.Text)
		case taken:
			return said.Text, nil
		}
		if _, err := os.Stat(path); err == nil && time.Since(asked) > takenWithin {
			return "", errors.New("the process that has the data directory open does not answer: is it kvd serve, and does it run?")
		}
		if !sleep.For(ctx, poll) {
			return "", ctx.Err()
		}
	}
}

// Await returns when a person has asked for a recovery and decide, which gets the
// pods that the person says are lost, has granted it; or when ctx ends. A refusal
// is answered at once, and the rest when the recovery is done.
func Await(ctx context.Context, dir string, decide func(lost []string) error, logger *slog.Logger) {
	for sleep.For(ctx, poll) {
		var asked request
		// It is taken away before it is carried out: it is answered once.
		taken, err := take(filepath.Join(dir, requestName), &asked)
		if err == nil && !taken {
			continue
		}
		if err == nil {
			err = decide(asked.Lost)
		}
		if err == nil {
			logger.Warn("a recovery was asked for; this pod stops to do it")
			return
		}
		logger.Warn("a recovery was asked for and refused", slog.Any("because", err))
		answer{Text: err.Error()}.leave(dir, logger)
	}
}

func (a answer) leave(dir string, logger *slog.Logger) {
	if err := write(filepath.Join(dir, answerName), a); err != nil {
		logger.Warn("the answer to kvd recover could not be written", slog.Any("error", err))
	}
}

// write replaces a file as a whole.
func write(path string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// take reads a file and removes it. A file that is not there, or cannot be removed,
// is not taken.
func take(path string, value any) (taken bool, err error) {
	raw, err := os.ReadFile(path)
	if err != nil || os.Remove(path) != nil {
		return false, nil //nolint:nilerr // It is looked for again.
	}
	return true, json.Unmarshal(raw, value)
}
