package main

import (
	"os/exec"
	"syscall"
)

// isolate keeps Ctrl-C of the terminal from the child, and ends it when this
// process is killed: nobody else would.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
