package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one running pod.
type Process struct {
	command *exec.Cmd
	ended   chan struct{} // closed when the process was waited for
}

// spawn hands functions to one operating system thread that lives as long as
// the benchmark: the kernel ends a child with Pdeathsig when the thread that
// started it ends, which for an ordinary goroutine is any time.
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

// startProcess runs a program with its output appended to a file. The process
// ends when the benchmark does, however the benchmark ends.
func startProcess(output, binary string, arguments []string) (*Process, error) {
	file, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	command := exec.Command(binary, arguments...)
	command.Stdout, command.Stderr = file, file
	// A group of its own: Ctrl-C reaches the benchmark, which stops its pods.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	spawn() <- func() { started <- command.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p := &Process{command: command, ended: make(chan struct{})}
	go func() {
		_ = command.Wait()
		close(p.ended)
	}()
	return p, nil
}

// kill is kill -9 of processes at one time; it returns when they are gone.
func kill(processes ...*Process) {
	for _, p := range processes {
		_ = p.command.Process.Kill()
	}
	for _, p := range processes {
		<-p.ended
	}
}

// Running tells if the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// clockTick is the unit of the times in /proc/PID/stat: 1/100 s on every
// architecture that Go runs Linux on.
const clockTick = 10 * time.Millisecond

// CPU is the processor time that the process has used, user and system.
func (p *Process) CPU() (time.Duration, error) {
	raw, err := os.ReadFile(p.proc("stat"))
	if err != nil {
		return 0, err
	}
	return parseCPU(raw)
}

// parseCPU reads utime and stime, fields 14 and 15, of a /proc/PID/stat. The
// second field is the program's name, and may hold spaces and parentheses.
func parseCPU(stat []byte) (time.Duration, error) {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat has %d fields after the name, want at least 13", len(fields))
	}
	var ticks uint64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// Memory is a field of /proc/PID/status, such as VmRSS, in bytes.
func (p *Process) Memory(field string) (int64, error) {
	raw, err := os.ReadFile(p.proc("status"))
	if err != nil {
		return 0, err
	}
	return parseMemory(string(raw), field)
}

// parseMemory reads a field that is given in kB from a file of /proc.
func parseMemory(status, field string) (int64, error) {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if name != field {
			continue
		}
		kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		return kilobytes << 10, err
	}
	return 0, fmt.Errorf("no field %s", field)
}

func (p *Process) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(p.command.Process.Pid), name)
}
