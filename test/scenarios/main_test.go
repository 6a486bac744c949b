//go:build linux

package scenarios

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/batondb/baton/test/cluster"
)

const (
	// programsVariable says where kvd and kvctl are, and that the namespaces are made.
	programsVariable = "SCENARIOS_PROGRAMS"
	dnsAddress       = "127.0.10.53"
	namespace        = "databases"
	domain           = namespace + ".svc.cluster.local"
	accountDir       = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// names is the DNS server of all tests; each set has a Service of its own.
var names *nameServer

func TestMain(m *testing.M) {
	var code int
	var err error
	if os.Getenv(programsVariable) == "" {
		code, err = runInside()
	} else if names, err = prepare(); err == nil {
		code = m.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scenarios:", err)
		code = 1
	}
	os.Exit(code)
}

// runInside builds kvd and kvctl, and runs this program again in its own namespaces.
func runInside() (int, error) {
	dir, err := os.MkdirTemp("", "scenarios")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	for _, program := range []string{cluster.Kvd, cluster.Kvctl} {
		if _, err := cluster.Build(context.Background(), dir, program); err != nil {
			return 1, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	inside := exec.Command(self, os.Args[1:]...)
	inside.Stdout, inside.Stderr = os.Stdout, os.Stderr
	inside.Env = append(os.Environ(), programsVariable+"="+dir)
	inside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		attributes := inside.SysProcAttr
		attributes.Cloneflags |= unix.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err = inside.Run()
	var ended *exec.ExitError
	switch {
	case errors.As(err, &ended):
		return ended.ExitCode(), nil
	case err != nil:
		return 1, fmt.Errorf("%w: these tests need namespaces: run them as root, or permit unprivileged user namespaces", err)
	}
	return 0, nil
}

// prepare makes the namespaces look like the inside of a pod.
func prepare() (*nameServer, error) {
	if err := loopbackUp(); err != nil {
		return nil, fmt.Errorf("loopback: %w", err)
	}
	resolv, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	run, err := filepath.EvalSymlinks("/var/run")
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp("", "resolv.conf")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	_, err = fmt.Fprintf(file, "nameserver %s\nsearch %s svc.cluster.local cluster.local\noptions ndots:5\n", dnsAddress, domain)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount(file.Name(), resolv, "", unix.MS_BIND, ""),
		// After resolv.conf, which may be in it.
		mountAccount(run, resolv))
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	return newNameServer(dnsAddress + ":53")
}

func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request)
}

// mountAccount hides /var/run, and puts a service account's files there.
func mountAccount(run, resolv string) error {
	text, err := os.ReadFile(resolv)
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", run, "tmpfs", 0, ""); err != nil {
		return err
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close() // All of httptest's servers have one certificate.
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.MkdirAll(accountDir, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(resolv); errors.Is(err, os.ErrNotExist) {
		err := errors.Join(os.MkdirAll(filepath.Dir(resolv), 0o755), os.WriteFile(resolv, text, 0o644))
		if err != nil {
			return err
		}
	}
	return errors.Join(
		os.WriteFile(filepath.Join(accountDir, "ca.crt"), certificate, 0o644),
		os.WriteFile(filepath.Join(accountDir, "token"), []byte("token"), 0o644),
		os.WriteFile(filepath.Join(accountDir, "namespace"), []byte(namespace), 0o644))
}
