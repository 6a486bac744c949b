package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/batondb/baton/kubernetes"
	"github.com/batondb/baton/replication"
	"github.com/batondb/baton/store"
)

// A pod that runs holds its data directory. `kvd recover` beside it leaves a
// request there, and finds the answer there: whoever may write to the directory
// may decide about its data, and no port is needed.
//
// What is decided is exchanged first in the cluster record, then noted on disk,
// and then done: from each step on, a pod that starts again goes on.
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

// recoveryRequest is what a person asks.
type recoveryRequest struct {
	// Lost are the pods that the person says have lost their data.
	Lost []string `json:"lost"`
}

// recoveryAnswer is what the running pod says.
type recoveryAnswer struct {
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// serve runs the pod until it is stopped, and again after each decision to recover.
func serve(ctx context.Context, c config) error {
	c.world = c.world.complete()
	for {
		if err := run(ctx, c); !errors.Is(err, errRecover) {
			return err
		}
	}
}

// recovery is what is known of one, but for its cluster.
func (c *config) recovery(lost []string, o *kubernetesPod, logger *slog.Logger) replication.Recovery {
	r := replication.Recovery{
		Dir: c.dataDir, Name: c.name, Lost: lost, Logger: logger, Write: writeHistory,
		Open: func() (replication.StateMachine, func() error, error) {
			st, err := store.Open(store.Options{Dir: c.dataDir, Logger: logger})
			if err != nil {
				return nil, nil, fmt.Errorf("open the database: %w", err)
			}
			return st, st.Close, nil
		},
	}
	if o != nil {
		r.Gone = o.gone
	}
	return r
}

// gone says whether Kubernetes knows that a pod and its volume are no more. A pod
// that runs may have them, however silent it is from here.
func (o *kubernetesPod) gone(ctx context.Context, pod string) (bool, error) {
	sibling, err := o.Sibling(ctx, pod)
	switch {
	case err != nil:
		return false, fmt.Errorf("%s does not answer, and what became of it is not known: %w", pod, err)
	case sibling.Runs:
		return false, fmt.Errorf("%s does not answer this pod, and Kubernetes says that it runs: one of the two may only be cut off, and %s may have a quorum. "+
			"If its volume is lost, delete its claim and the pod; if its node is, delete the node", pod, pod)
	}
	return sibling.Gone, nil
}

// decideRecovery makes the decision to recover, in this order: whether it is right, the
// cluster record, this disk. Nothing is done yet. It goes on with an earlier
// decision of this pod's that did not come as far as the disk.
func decideRecovery(ctx context.Context, node *replication.Node, r replication.Recovery, o *kubernetesPod) (cluster string, err error) {
	if err := node.CheckRecovery(ctx, r); err != nil {
		return "", err
	}
	disk := node.Disk()
	record := kubernetes.Record{Cluster: uuid.NewString(), Founder: string(disk.Member), Replaces: disk.Cluster}
	if o != nil {
		if now, err := o.Record(ctx); err == nil && now.Founder == record.Founder && now.Replaces == record.Replaces {
			record = now
		}
		if err := exchange(ctx, o, disk.Cluster, record); err != nil {
			return "", err
		}
	}
	if err := node.Succeed(record.Cluster); err != nil {
		return "", fmt.Errorf("it is decided, and could not be noted on the disk; run the command again: %w", err)
	}
	return record.Cluster, nil
}

// exchange exchanges the record, and says what became of it otherwise.
func exchange(ctx context.Context, o *kubernetesPod, from string, to kubernetes.Record) error {
	err := o.ExchangeRecord(ctx, from, to)
	switch {
	case errors.Is(err, kubernetes.ErrUnknown):
		return fmt.Errorf("run the command again, and it goes on: %w", err)
	case err != nil:
		return fmt.Errorf("nothing was done, for the pods must know what they are of: %w", err)
	}
	return nil
}

// awaitRecovery returns when a person has asked for a recovery that is possible.
func (p *pod) awaitRecovery(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(requestPoll):
		}
		path := filepath.Join(p.config.dataDir, requestName)
		raw, err := os.ReadFile(path)
		// Taking the request away first: it is answered once.
		if err != nil || os.Remove(path) != nil {
			continue
		}
		request := recoveryRequest{}
		if err = json.Unmarshal(raw, &request); err == nil {
			_, err = decideRecovery(ctx, p.node, p.config.recovery(request.Lost, p.kubernetes, p.logger), p.kubernetes)
		}
		if err == nil {
			p.logger.Warn("a recovery was asked for; this pod stops to do it")
			return
		}
		p.logger.Warn("a recovery was asked for and refused", slog.Any("because", err))
		p.answer(false, err.Error())
	}
}

// succeed ends what a recovery, or an adoption, has decided: the data becomes the
// beginning of a cluster, in a place.
func (c *config) succeed(ctx context.Context, cluster, place string, o *kubernetesPod, logger *slog.Logger) error {
	r := c.recovery(nil, o, logger)
	r.Cluster, r.Place = cluster, place
	disk, err := replication.Recover(ctx, r)
	if errors.Is(err, replication.ErrLocked) {
		return err
	}
	ok, text := err == nil, recovered(disk)
	if ok {
		logger.Warn("this pod's data is the beginning of a new history", slog.String("cluster", disk.Cluster), slog.String("goes_on_from", disk.Replaces))
	} else {
		text = fmt.Sprintf("the new history is decided, and not written yet; it is tried again whenever this pod starts: %v", err)
	}
	if answerErr := answerRecovery(c.dataDir, ok, text); answerErr != nil {
		logger.Warn("the answer to kvd recover could not be written", slog.Any("error", answerErr))
	}
	return err
}

// settle returns when the pod's data may be served, and goes on with what was noted
// on the disk. The record may change before that, and while it is done.
func (p *pod) settle(ctx context.Context) error {
	for {
		if err := p.kubernetes.settle(ctx, p.config, p.server.Wait); err != nil {
			return err
		}
		disk, err := replication.Examine(p.config.dataDir)
		if err != nil || disk.Successor == "" {
			return nil //nolint:nilerr // Opening it reports the same.
		}
		p.server.Wait("it begins a new history with its data")
		err = p.config.succeed(ctx, disk.Successor, "", p.kubernetes, p.logger)
		p.server.Wait("")
		if err != nil {
			return fmt.Errorf("begin a new history: %w", err)
		}
	}
}

func recovered(disk replication.Disk) string {
	return fmt.Sprintf("%s is the only member of the new cluster %s, which goes on from %s. "+
		"Pods without data clone from it. Pods that have data of before do not start with it, and say what to do.",
		disk.Member, disk.Cluster, disk.Replaces)
}

func (p *pod) answer(ok bool, text string) {
	if err := answerRecovery(p.config.dataDir, ok, text); err != nil {
		p.logger.Warn("the answer to kvd recover could not be written", slog.Any("error", err))
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
	var lost []string
	command := podCommand(&cobra.Command{
		Use:   "recover --lost POD,POD",
		Short: "Begin a new history with this pod's data, when a majority of the volumes is lost",
		Long: "Make this pod's data the beginning of a new cluster with this pod as its only member, when the\n" +
			"volumes of a majority are lost. Run it in the pod whose log says the highest last_log_term and, of those, the highest last_index,\n" +
			"and name the pods whose volumes are lost for good:\n\n" +
			"  kubectl exec kv-1 -- kvd recover --lost kv-0,kv-2\n\n" +
			"It is refused while a master or a quorum answers, and when a pod that does not answer may not be lost:\n" +
			"it is not named, or Kubernetes says that it runs. Writes that only the lost volumes had are gone.\n" +
			"The old data is kept beside the new one, in replaced-*, and takes as much space.",
	}, func(cmd *cobra.Command, c *config) error {
		text, err := recoverPod(cmd.Context(), c, lost)
		if err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), text)
		return nil
	})
	command.Flags().StringSliceVar(&lost, "lost", nil, "the pods whose volumes are lost for good; those that Kubernetes knows to be gone, with their claims, need not be named")
	return command
}

// recoverPod asks the pod that runs, or does it itself if none does.
func recoverPod(ctx context.Context, c *config, lost []string) (string, error) {
	logger := slog.New(slog.DiscardHandler)
	listener, err := c.world.complete().listen("tcp", "127.0.0.1:0") // Nobody is to find it.
	if err != nil {
		return "", err
	}
	options := replication.Options{
		Dir: c.dataDir, Name: c.name, Resolver: newResolver(c).resolve, Listener: listener, Peers: c.peers, Dial: c.world.dial,
		Receive: func(io.Reader) (replication.Position, error) { return replication.Position{}, errRecover },
		Timing:  replication.Timing{LockWait: time.Second}, Logger: logger,
	}
	node, err := replication.Open(ctx, options)
	if errors.Is(err, replication.ErrLocked) {
		return requestRecovery(ctx, c.dataDir, lost)
	}
	if err != nil {
		return "", err
	}
	o := c.inKubernetes(logger)
	cluster, err := decideRecovery(ctx, node, c.recovery(lost, o, logger), o)
	if err := errors.Join(err, node.Close(ctx)); err != nil {
		return "", err
	}
	disk, err := c.succeedOrWait(ctx, cluster, "", o)
	if err != nil {
		return "", err
	}
	return recovered(disk), nil
}

// succeedOrWait does what was decided, unless the pod that runs is faster.
func (c *config) succeedOrWait(ctx context.Context, cluster, place string, o *kubernetesPod) (replication.Disk, error) {
	for {
		err := c.succeed(ctx, cluster, place, o, slog.New(slog.DiscardHandler))
		disk, examined := replication.Examine(c.dataDir)
		switch {
		case examined == nil && disk.Cluster == cluster:
			return disk, nil
		case err != nil && !errors.Is(err, replication.ErrLocked):
			return disk, err
		}
		select {
		case <-ctx.Done():
			return disk, ctx.Err()
		case <-time.After(requestPoll):
		}
	}
}

// requestRecovery leaves a request for the pod that has the directory open.
func requestRecovery(ctx context.Context, dir string, lost []string) (string, error) {
	request, answer := filepath.Join(dir, requestName), filepath.Join(dir, answerName)
	if err := os.Remove(answer); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	raw, err := json.Marshal(recoveryRequest{lost})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(request+".tmp", raw, 0o600), os.Rename(request+".tmp", request)); err != nil {
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
