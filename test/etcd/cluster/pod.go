package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// Pod is one server process. Not for several goroutines.
type Pod struct {
	Name   string
	Client string // The address that clients dial, host:port.

	t       testing.TB
	args    []string
	output  string
	command *exec.Cmd
}

// spawn hands functions to one operating system thread that lives as long as
// the tests: the kernel ends a child with Pdeathsig when the thread that started
// it ends, which for an ordinary goroutine is any time.
var spawn = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Start starts the process, which ends at the latest with the test.
func (p *Pod) Start() {
	p.t.Helper()
	file, err := os.OpenFile(p.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer file.Close()
	p.command = exec.Command(p.args[0], p.args[1:]...)
	p.command.Stdout, p.command.Stderr = file, file
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	spawn() <- func() { started <- p.command.Start() }
	if err := <-started; err != nil {
		p.t.Fatal(err)
	}
}

// Kill is kill -9; it returns when the process is gone.
func (p *Pod) Kill() { _ = p.end(syscall.SIGKILL) }

// Stop is what Kubernetes does first: SIGTERM. It returns the process's error.
func (p *Pod) Stop() error { return p.end(syscall.SIGTERM) }

func (p *Pod) end(signal syscall.Signal) error {
	if p.command == nil {
		return nil
	}
	_ = p.command.Process.Signal(signal)
	err := p.command.Wait()
	p.command = nil
	return err
}

// Log is what the process has printed.
func (p *Pod) Log() string {
	text, err := os.ReadFile(p.output)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(text)
}

func newPod(t testing.TB, dir, name, client string, args ...string) *Pod {
	p := &Pod{Name: name, Client: client, t: t, args: args, output: filepath.Join(dir, name+".log")}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, last(p.Log(), 8<<10))
		}
	})
	return p
}

func last(text string, n int) string { return text[max(0, len(text)-n):] }
