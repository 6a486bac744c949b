package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

const (
	// portsApart is the distance between two pods' ports.
	portsApart = 10
	// maxDevNodes: more pods than this on one machine show nothing new.
	maxDevNodes = 9
)

// devConfig is a local cluster.
type devConfig struct {
	nodes    int
	dataDir  string
	basePort int
	logLevel string
}

func devCommand() *cobra.Command {
	var c devConfig
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a local cluster on loopback",
		Long: "Run a local cluster on loopback until Ctrl-C. Each pod is a process of its own:\n" +
			"kill one, and see the others go on and the pod come back.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.check(); err != nil {
				return err
			}
			return runDev(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.IntVar(&c.nodes, "nodes", 3, "how many pods")
	f.StringVar(&c.dataDir, "data-dir", "data", "where the pods' data is; each has a directory in it")
	f.IntVar(&c.basePort, "base-port", 7400, "the first pod's client port; its peer and HTTP ports follow, and the next pod's are 10 higher")
	f.StringVar(&c.logLevel, "log-level", "info", "of the pods: debug, info, warn or error")
	return cmd
}

func (c *devConfig) check() error {
	if c.nodes < 1 || c.nodes > maxDevNodes {
		return fmt.Errorf("--nodes is %d: set it to 1 to %d", c.nodes, maxDevNodes)
	}
	if highest := 65535 - portsApart*c.nodes; c.basePort < 1 || c.basePort > highest {
		return fmt.Errorf("--base-port is %d: set it to 1 to %d", c.basePort, highest)
	}
	if c.dataDir == "" {
		return fmt.Errorf("--data-dir is empty: set it to a directory")
	}
	return nil
}

// portsFree fails when another program, perhaps another local cluster, has one
// of the ports: the pods of two clusters must not take turns on them.
func (c *devConfig) portsFree() error {
	for i := range c.nodes {
		for port := range 3 {
			listener, err := net.Listen("tcp", c.address(i, port))
			if err != nil {
				return fmt.Errorf("%w: stop what uses the port, or choose another --base-port", err)
			}
			if err := listener.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *devConfig) pod(i int) string { return fmt.Sprintf("kv-%d", i) }

// address gives the address of a pod's client (0), peer (1) or HTTP (2) port.
func (c *devConfig) address(i, port int) string {
	return fmt.Sprintf("127.0.0.1:%d", c.basePort+portsApart*i+port)
}

// serve makes the command that runs one pod.
func (c *devConfig) serve(executable string, i int) *exec.Cmd {
	var peers []string
	for n := range c.nodes {
		peers = append(peers, c.pod(n)+"="+c.address(n, 1))
	}
	cmd := exec.Command(executable, "serve",
		"--name", c.pod(i),
		"--data-dir", filepath.Join(c.dataDir, c.pod(i)),
		"--listen-client", c.address(i, 0),
		"--listen-peer", c.address(i, 1),
		"--listen-http", c.address(i, 2),
		"--peers", strings.Join(peers, ","),
		"--certs", c.certs(i),
		"--log-level", c.logLevel)
	for _, variable := range os.Environ() {
		// A variable that sets a flag would set it for every pod.
		if !strings.HasPrefix(variable, "BATON_") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	return cmd
}

func runDev(ctx context.Context, c devConfig, out io.Writer) error {
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	if err := c.portsFree(); err != nil {
		return err
	}
	if err := c.certify(time.Now()); err != nil {
		return err
	}
	terminal := &lines{out: out}
	var pods sync.WaitGroup
	for i := range c.nodes {
		child := &child{name: c.pod(i), terminal: terminal, command: func() *exec.Cmd { return c.serve(executable, i) }}
		pods.Go(func() { child.run(ctx) })
	}
	if c.awaitReady(ctx) {
		c.welcome(terminal)
	}
	pods.Wait()
	terminal.print("dev", "all pods have stopped; the data is in "+c.dataDir)
	return nil
}
