package main

import (
	"os/exec"
	"syscall"
)

// isolate shields the child from the terminal's Ctrl-C, and ends it when this
// process is killed: nobody else would.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
