//go:build !linux

package main

import (
	"os/exec"
	"syscall"
)

// isolate shields the child from the terminal's Ctrl-C.
func isolate(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
