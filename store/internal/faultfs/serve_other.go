//go:build !linux

package faultfs

import (
	"errors"
	"syscall"
)

type request struct {
	Mark  int64
	Fault *fault
}

type fault struct {
	Errno syscall.Errno
	After int
}

func serve(_, _, _ string) error { return errors.New("faultfs: only on Linux") }
