//go:build !linux

package main

import (
	"os/exec"
	"syscall"
)

// isolate keeps Ctrl-C of the terminal from the child.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
