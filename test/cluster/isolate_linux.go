package cluster

import (
	"os/exec"
	"syscall"
)

// isolate keeps Ctrl-C of the terminal from the child, and ends it when this
// program is killed: nobody else would.
func isolate(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
