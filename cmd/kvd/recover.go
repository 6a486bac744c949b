package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// A pod that runs holds its data directory. `kvd recover` beside it leaves a
// request there, and finds the answer there: whoever may write to the directory
// may decide about its data, and no port is needed.
const (
	requestName = "recover.request"
	answerName  = "recover.answer"
	// requestPoll is how often either side looks.
	requestPoll = 500 * time.Millisecond
	// takenWithin is how long a running pod may need to see a request.
	takenWithin = 15 * time.Second
	// recoveryTimeout is for copying a large database on a slow disk.
	recoveryTimeout = time.Hour
)

// errRecover ends a run so that the data can be recovered, and run again.
var errRecover = errors.New("a recovery was asked for")

// recoveryAnswer is what the running pod says.
type recoveryAnswer struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// serve runs the pod until it is stopped, and again after each recovery.
func serve(ctx context.Context, c config) error {
	for {
		err := run(ctx, c)
		if !errors.Is(err, errRecover) {
			return err
		}
		logger := newLogger(os.Stderr, &c)
		disk, err := recoverData(ctx, &c, logger)
		if err != nil {
			logger.Error("the recovery failed; the data is as it was", slog.Any("error", err))
			err = answerRecovery(c.dataDir, false, err.Error())
		} else {
			logger.Warn("this pod's data is the beginning of a new history", slog.String("cluster", disk.Cluster), slog.String("goes_on_from", disk.Replaces))
			err = answerRecovery(c.dataDir, true, recovered(disk))
		}
		if err != nil {
			logger.Warn("the answer to kvd recover could not be written", slog.Any("error", err))
		}
	}
}

func recovered(disk replication.Disk) string {
	return fmt.Sprintf("%s is the only member of the new cluster %s, which goes on from %s. "+
		"Pods without data clone from it; of pods that have data of before, delete the volume claim and the pod.",
		disk.Member, disk.Cluster, disk.Replaces)
}

// awaitRecovery returns when a person has asked for a recovery that is possible.
func awaitRecovery(ctx context.Context, dir string, log *replication.Node, logger *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(requestPoll):
		}
		// Taking the request away first: it is answered once.
		if os.Remove(filepath.Join(dir, requestName)) != nil {
			continue
		}
		err := log.CheckRecovery(ctx)
		if err == nil {
			logger.Warn("a recovery was asked for; this pod stops to do it")
			return
		}
		logger.Warn("a recovery was asked for and refused", slog.Any("because", err))
		if err := answerRecovery(dir, false, err.Error()); err != nil {
			logger.Warn("the answer to kvd recover could not be written", slog.Any("error", err))
		}
	}
}

func answerRecovery(dir string, ok bool, text string) error {
	raw, err := json.Marshal(recoveryAnswer{ok, text})
	if err != nil {
		return err
	}
	path := filepath.Join(dir, answerName)
	if err := os.WriteFile(path+".tmp", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// recoverData works on a directory that nobody has open.
func recoverData(ctx context.Context, c *config, logger *slog.Logger) (replication.Disk, error) {
	return replication.Recover(ctx, replication.Recovery{
		Dir: c.dataDir, Name: c.name, Logger: logger,
		Open: func() (replication.StateMachine, func() error, error) {
			st, err := store.Open(store.Options{Dir: c.dataDir, Logger: logger})
			if err != nil {
				return nil, nil, fmt.Errorf("open the database: %w", err)
			}
			return stateMachine{st}, st.Close, nil
		},
		Write: writeHistory,
	})
}

// writeHistory goes through a pipe: a third copy of the data may not have room.
func writeHistory(ctx context.Context, dir string, snapshot io.Reader, configuration []byte) error {
	pipe := filepath.Join(dir, "snapshot")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	written := make(chan error, 1)
	go func() {
		w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // Waits for the reader.
		if err == nil {
			_, err = io.Copy(w, snapshot)
			err = errors.Join(err, w.Close())
		}
		written <- err
	}()
	_, err := store.RestoreFile(ctx, pipe, dir, configuration, nil)
	if err != nil {
		// If it never read, the writer still waits for a reader.
		if r, openErr := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0); openErr == nil {
			defer r.Close() //nolint:errcheck // It was not read from.
		}
	}
	if writeErr := <-written; err == nil {
		err = writeErr
	}
	return errors.Join(err, os.Remove(pipe))
}

func recoverCommand() *cobra.Command {
	return podCommand(&cobra.Command{
		Use:   "recover",
		Short: "Begin a new history with this pod's data, when a majority of the volumes is lost",
		Long: "Make this pod's data the beginning of a new cluster with this pod as its only member, when the\n" +
			"volumes of a majority are lost. Run it in the pod whose log says the highest last_log_term and, of those, the highest last_index:\n\n" +
			"  kubectl exec kv-1 -- kvd recover\n\n" +
			"It is refused while a master or a quorum answers. Writes that only the lost volumes had are gone.\n" +
			"The old data is kept beside the new one, in replaced-*, and takes as much space.",
	}, func(cmd *cobra.Command, c *config) error {
		text, err := recoverPod(cmd.Context(), c)
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), text)
		return nil
	})
}

// recoverPod asks the pod that runs, or does it itself if none does.
func recoverPod(ctx context.Context, c *config) (string, error) {
	logger := slog.New(slog.DiscardHandler)
	listener, err := net.Listen("tcp", "127.0.0.1:0") // Nobody is to find it.
	if err != nil {
		return "", err
	}
	options := replication.Options{
		Dir: c.dataDir, Name: c.name, Resolver: newResolver(c).resolve, Listener: listener, Peers: c.peers,
		Receive: func(io.Reader) (replication.Position, error) { return replication.Position{}, errRecover },
		Timing:  replication.Timing{LockWait: time.Second}, Logger: logger,
	}
	node, err := replication.Open(ctx, options)
	if errors.Is(err, replication.ErrLocked) {
		return requestRecovery(ctx, c.dataDir)
	}
	if err != nil {
		return "", err
	}
	err = node.CheckRecovery(ctx)
	if err := errors.Join(err, node.Close(ctx)); err != nil {
		return "", err
	}
	disk, err := recoverData(ctx, c, logger)
	if err != nil {
		return "", err
	}
	return recovered(disk), nil
}

// requestRecovery leaves a request for the pod that has the directory open.
func requestRecovery(ctx context.Context, dir string) (string, error) {
	request, answer := filepath.Join(dir, requestName), filepath.Join(dir, answerName)
	if err := os.Remove(answer); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := os.WriteFile(request, nil, 0o600); err != nil {
		return "", err
	}
	defer os.Remove(request) //nolint:errcheck // It is gone when it was taken.
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, recoveryTimeout)
	defer cancel()
	for {
		if raw, err := os.ReadFile(answer); err == nil {
			var a recoveryAnswer
			if err := json.Unmarshal(raw, &a); err != nil {
				return "", err
			}
			if !a.OK {
				return "", errors.New(a.Text)
			}
			return a.Text, os.Remove(answer)
		}
		if _, err := os.Stat(request); err == nil && time.Since(asked) > takenWithin {
			return "", errors.New("the process that has the data directory open does not answer: is it kvd serve, and does it run?")
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(requestPoll):
		}
	}
}
