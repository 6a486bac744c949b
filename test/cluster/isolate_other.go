//go:build !linux

package cluster

import (
	"os/exec"
	"syscall"
)

// isolate keeps Ctrl-C of the terminal from the child.
func isolate(command *exec.Cmd) {
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
