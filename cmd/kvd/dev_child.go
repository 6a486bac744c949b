package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const (
	// restartPause is long enough to see that a killed pod is gone.
	restartPause = time.Second
	// stopPatience is how long a pod may take to stop before it is killed: a
	// bit more than it allows itself.
	stopPatience = 40 * time.Second
)

// child is one pod of a local cluster, started again whenever it dies.
type child struct {
	name     string
	terminal *lines
	command  func() *exec.Cmd
}

// run returns when both ctx and the process have ended.
func (c *child) run(ctx context.Context) {
	// The kernel ends the child when the thread that started it ends (see
	// isolate), so this goroutine keeps its thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for ctx.Err() == nil {
		err := c.once(ctx)
		if ctx.Err() != nil {
			return
		}
		c.terminal.print("dev", fmt.Sprintf("%s died (%s); it is started again in %s", c.name, describeExit(err), restartPause))
		select {
		case <-ctx.Done():
		case <-time.After(restartPause):
		}
	}
}

func describeExit(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// once runs the process until it ends.
func (c *child) once(ctx context.Context) error {
	cmd := c.command()
	output := &prefixed{terminal: c.terminal, name: c.name}
	cmd.Stdout, cmd.Stderr = output, output
	isolate(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	c.terminal.print("dev", fmt.Sprintf("%s runs as process %d", c.name, cmd.Process.Pid))
	ended := make(chan struct{})
	defer close(ended)
	go c.stopWith(ctx, cmd, ended)
	return cmd.Wait()
}

// stopWith passes a stop on: the child has a process group of its own, so Ctrl-C
// reaches only this process, and each pod gets one SIGTERM.
func (c *child) stopWith(ctx context.Context, cmd *exec.Cmd, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // An error: it has ended.
	select {
	case <-ended:
	case <-time.After(stopPatience):
		c.terminal.print("dev", c.name+" does not stop; it is killed")
		_ = cmd.Process.Kill()
	}
}

// lines keeps the lines of several processes whole.
type lines struct {
	mu  sync.Mutex // guards out
	out io.Writer
}

func (l *lines) print(name, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, "%-5s| %s\n", name, line)
}

// maxLine bounds how much of an endless line is buffered.
const maxLine = 64 << 10

// prefixed cuts a process's output into lines. It is used by one goroutine.
type prefixed struct {
	terminal *lines
	name     string
	rest     []byte
}

func (p *prefixed) Write(data []byte) (int, error) {
	p.rest = append(p.rest, data...)
	for {
		end := bytes.IndexByte(p.rest, '\n')
		if end < 0 && len(p.rest) < maxLine {
			return len(data), nil
		}
		line := p.rest
		if end >= 0 {
			line = p.rest[:end]
			p.rest = p.rest[end+1:]
		} else {
			p.rest = nil
		}
		p.terminal.print(p.name, string(line))
	}
}
