package faultfs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// argument marks the serving process.
const argument = "faultfs-serve"

// Main is for TestMain: in the serving process it does not return.
func Main() {
	if len(os.Args) != 5 || os.Args[1] != argument {
		return
	}
	if err := serve(os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// FS is a mounted file system. For one goroutine.
type FS struct {
	// Dir is where it is mounted.
	Dir string

	record  string
	process *exec.Cmd
	stdin   io.WriteCloser
	stdout  *bufio.Reader
	stderr  strings.Builder
}

// Mount serves an empty file system under dir, which must exist. It fails where
// FUSE is not there or not permitted.
func Mount(dir string) (*FS, error) {
	f := &FS{Dir: filepath.Join(dir, "mounted"), record: filepath.Join(dir, "record")}
	backing := filepath.Join(dir, "backing")
	if err := errors.Join(os.Mkdir(f.Dir, 0o700), os.Mkdir(backing, 0o700)); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	f.process = exec.Command(self, argument, backing, f.Dir, f.record)
	f.process.Stderr = &f.stderr
	stdout, err := f.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	f.stdout = bufio.NewReader(stdout)
	if f.stdin, err = f.process.StdinPipe(); err != nil {
		return nil, err
	}
	if err := f.process.Start(); err != nil {
		return nil, err
	}
	if line, err := f.stdout.ReadString('\n'); err != nil || line != "mounted\n" {
		return nil, errors.Join(fmt.Errorf("faultfs: not mounted: %s %s", line, f.stderr.String()), f.process.Wait())
	}
	return f, nil
}

// Mark puts a number above 0 into the record: all that was done before it is
// complete.
func (f *FS) Mark(number int64) error { return f.ask(request{Mark: number}) }

// Fail makes every change and sync fail after so many more; with errno 0 no
// more.
func (f *FS) Fail(errno syscall.Errno, after int) error {
	return f.ask(request{Fault: &fault{Errno: errno, After: after}})
}

func (f *FS) ask(r request) error {
	if err := json.NewEncoder(f.stdin).Encode(r); err != nil {
		return err
	}
	_, err := f.stdout.ReadString('\n')
	return err
}

// Unmount ends the file system and returns its record.
func (f *FS) Unmount() ([]Op, error) {
	if err := f.stdin.Close(); err != nil {
		return nil, err
	}
	if err := f.process.Wait(); err != nil {
		return nil, fmt.Errorf("faultfs: %w: %s", err, f.stderr.String())
	}
	return readOps(f.record)
}
