package faults

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is one running kvd.
type process struct {
	command *exec.Cmd
	ended   chan struct{} // Closed when the process was waited for.
}

// spawn hands functions to one operating system thread that lives as long as
// the test: the kernel ends a child with Pdeathsig when the thread that started
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

// startProcess runs a program with its output appended to a file. It ends when
// the test does, however the test ends.
func startProcess(output, binary string, arguments []string) (*process, error) {
	file, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	fmt.Fprintf(file, "--- started %s\n", time.Now().Format(time.StampMicro))
	command := exec.Command(binary, arguments...)
	command.Stdout, command.Stderr = file, file
	command.Env = append(os.Environ(), "GORACE=halt_on_error=1")
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	spawn() <- func() { started <- command.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &process{command: command, ended: make(chan struct{})}
	go func() {
		_ = command.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) signal(s syscall.Signal) { _ = p.command.Process.Signal(s) }

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}
