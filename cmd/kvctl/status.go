package main

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// statusInterval is the pause between two looks of status --watch.
const statusInterval = time.Second

func newStatus(a *app) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show every pod: role, health, lag",
		Long: `Show every member of the cluster, reachable or not, and the pods that clone and
are no members yet. LAG is how many log entries a pod is behind the master. The
table looks the same everywhere; colours are only for terminals, and not when
NO_COLOR is set.`,
		Example: `  kvctl status
  kvctl status --watch
  kvctl status -o json | jq -r '.pods[] | select(.role == "master") | .name'`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch {
				return a.watchStatus(cmd)
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				status, err := c.Status(ctx)
				if err != nil {
					return err
				}
				return a.printStatus(status)
			})
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again every second until stopped")
	return cmd
}

// jsonPod is a pod in JSON. Scripts rely on the names and their meaning; more
// may follow.
type jsonPod struct {
	Name            string   `json:"name"`
	Ordinal         int32    `json:"ordinal"`
	MemberID        string   `json:"member_id"`
	Role            string   `json:"role"`
	Ready           bool     `json:"ready"`
	NotReadyBecause string   `json:"not_ready_because"`
	Term            uint64   `json:"term"`
	AppliedIndex    uint64   `json:"applied_index"`
	Revision        int64    `json:"revision"`
	Lag             uint64   `json:"lag"`
	DBSizeBytes     int64    `json:"db_size_bytes"`
	Version         string   `json:"version"`
	ClientAddress   string   `json:"client_address"`
	PeerAddress     string   `json:"peer_address"`
	OldestRevision  int64    `json:"oldest_revision"`
	Alarms          []string `json:"alarms"`
	// Clone is there while the pod receives its database.
	Clone *jsonClone `json:"clone,omitempty"`
}

// jsonClone says how far a clone has come.
type jsonClone struct {
	Source         string `json:"source"`
	Bytes          int64  `json:"bytes"`
	TotalBytes     int64  `json:"total_bytes"`
	BytesPerSecond int64  `json:"bytes_per_second"`
}

func cloneJSON(c *kvv1.CloneProgress) *jsonClone {
	if c == nil {
		return nil
	}
	return &jsonClone{c.GetSource(), c.GetBytes(), c.GetTotalBytes(), c.GetBytesPerSecond()}
}

func statusJSON(status *kvv1.StatusResponse) any {
	pods := []jsonPod{}
	for _, p := range status.GetPods() {
		alarms := p.GetAlarms()
		if alarms == nil {
			alarms = []string{}
		}
		pods = append(pods, jsonPod{
			Name: p.GetName(), Ordinal: p.GetOrdinal(), MemberID: p.GetMemberId(), Role: role(p),
			Ready: p.GetReady(), NotReadyBecause: p.GetNotReadyBecause(), Term: p.GetTerm(),
			AppliedIndex: p.GetAppliedIndex(), Revision: p.GetRevision(), Lag: p.GetLag(),
			DBSizeBytes: p.GetDbSizeBytes(), Version: p.GetVersion(), ClientAddress: p.GetClientAddress(),
			PeerAddress: p.GetPeerAddress(), OldestRevision: p.GetOldestRevision(), Alarms: alarms, Clone: cloneJSON(p.GetClone()),
		})
	}
	return struct {
		ClusterID string    `json:"cluster_id"`
		Pods      []jsonPod `json:"pods"`
	}{status.GetClusterId(), pods}
}

// role gives one of the three roles. A pod that does not answer is taken for a
// follower: if it were the master, it would be known.
func role(p *kvv1.PodStatus) string {
	switch p.GetRole() {
	case kvv1.PodStatus_ROLE_MASTER:
		return "master"
	case kvv1.PodStatus_ROLE_LEARNER:
		return "learner"
	}
	return "follower"
}

func (a *app) printStatus(status *kvv1.StatusResponse) error {
	if a.json() {
		return a.printJSON(statusJSON(status))
	}
	ready, master := 0, "no master"
	t := table{colours: a.colours()}
	t.row("NAME", "ROLE", "READY", "TERM", "APPLIED", "REVISION", "LAG", "SIZE", "VERSION", "")
	for _, p := range status.GetPods() {
		if p.GetReady() {
			ready++
		}
		if p.GetRole() == kvv1.PodStatus_ROLE_MASTER {
			master = "master " + p.GetName()
		}
		t.rows = append(t.rows, statusRow(p))
	}
	a.printf("cluster %s: %s, %d ready, %s\n", status.GetClusterId(), plural(int64(len(status.GetPods())), "pod"), ready, master)
	t.writeTo(a.out)
	return nil
}

func statusRow(p *kvv1.PodStatus) []cell {
	roleCell, readyCell := cell{role(p), plain}, cell{"yes", green}
	if p.GetRole() == kvv1.PodStatus_ROLE_MASTER {
		roleCell.colour = bold
	}
	notes := strings.Join(p.GetAlarms(), "; ")
	if !p.GetReady() {
		readyCell = cell{"no", red}
		why := p.GetNotReadyBecause()
		if c := p.GetClone(); c != nil {
			why = fmt.Sprintf("clones from %s: %s of %s, %s/s", c.GetSource(), size(c.GetBytes()), size(c.GetTotalBytes()), size(c.GetBytesPerSecond()))
		}
		if why != "" {
			notes = strings.TrimSuffix(why+"; "+notes, "; ")
		}
	}
	if p.GetVersion() == "" { // it could not be asked: zeros would be lies
		if p.GetRole() == kvv1.PodStatus_ROLE_UNSPECIFIED {
			roleCell.text = "?"
		}
		row := []cell{{text: p.GetName()}, roleCell, readyCell}
		for range 6 {
			row = append(row, cell{text: "-"})
		}
		return append(row, cell{notes, yellow})
	}
	lagColour := plain
	if p.GetLag() > 0 {
		lagColour = yellow
	}
	return []cell{
		{text: p.GetName()}, roleCell, readyCell,
		{text: strconv.FormatUint(p.GetTerm(), 10)},
		{text: strconv.FormatUint(p.GetAppliedIndex(), 10)},
		{text: strconv.FormatInt(p.GetRevision(), 10)},
		{strconv.FormatUint(p.GetLag(), 10), lagColour},
		{text: size(p.GetDbSizeBytes())},
		{text: p.GetVersion()},
		{notes, yellow},
	}
}

// watchStatus shows the status again and again: on a terminal in place, elsewhere
// as a sequence of tables or of lines of JSON.
func (a *app) watchStatus(cmd *cobra.Command) error {
	c, err := a.connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := a.checkReachable(cmd, c); err != nil {
		return err
	}
	ticks := time.NewTicker(statusInterval)
	defer ticks.Stop()
	if a.outTerminal && !a.json() {
		a.printf("\x1b[2J")
	}
	for {
		if err := a.drawStatus(cmd, c); err != nil {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-ticks.C:
		}
	}
}

func (a *app) drawStatus(cmd *cobra.Command, c *client.Client) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	status, err := c.Status(ctx)
	if cmd.Context().Err() != nil {
		return nil
	}
	screen := &bytes.Buffer{}
	out := a.out
	a.out = screen
	if err != nil {
		a.printf("%s  %v\n", time.Now().Format(time.TimeOnly), err)
	} else if err := a.printStatus(status); err != nil {
		a.printf("%v\n", err)
	}
	a.out = out
	if a.outTerminal && !a.json() {
		// Go home, and clear each line to its end, then what is below: no flicker.
		a.printf("\x1b[H%s\x1b[J", strings.ReplaceAll(screen.String(), "\n", "\x1b[K\n"))
	} else {
		fmt.Fprint(a.out, screen.String())
	}
	return a.flush()
}
