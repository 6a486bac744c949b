package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that was started. Those of its methods that look at a nil
// one see that none was.
type process struct {
	command *exec.Cmd
	ended   chan struct{} // closed when the process was waited for
}

// spawn hands functions to one operating system thread that lives as long as
// this program: the kernel ends a child with its parent (see isolate) when the
// thread that started it ends, which for an ordinary goroutine is any time.
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

// start runs a command with its output appended to a file.
func start(log string, arguments, environment []string) (*process, error) {
	if len(arguments) == 0 {
		return nil, errors.New("it has no command")
	}
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	fmt.Fprintf(file, "--- started %s\n", time.Now().Format(time.StampMicro))
	command := exec.Command(arguments[0], arguments[1:]...)
	command.Stdout, command.Stderr = file, file
	command.Env = append(Environment(), environment...)
	isolate(command)
	started := make(chan error)
	spawn() <- func() { started <- command.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &process{command: command, ended: make(chan struct{})}
	go func() {
		_ = command.Wait() // Whoever wants to know looks at its state.
		close(p.ended)
	}()
	return p, nil
}

// Environment is this program's own, without what would set flags of kvd.
func Environment() []string {
	var kept []string
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "BATON_") {
			kept = append(kept, variable)
		}
	}
	return append(kept, "GORACE=halt_on_error=1")
}

func (p *process) signal(s syscall.Signal) error {
	if p == nil {
		return os.ErrProcessDone
	}
	return p.command.Process.Signal(s)
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

func (p *process) wait() {
	if p != nil {
		<-p.ended
	}
}
