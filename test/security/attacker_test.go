package security

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/batondb/baton/internal/rawgrpc"
	"github.com/batondb/baton/test/cluster"
)

// attacker attacks a pod from 127.0.0.2 until ctx ends. It is a process of its own, which
// runs only while a processor has nothing else to do: what an attack costs others is what
// the pods do about it, and not that the attacker's program is on the same machine.
type attacker struct {
	ctx         context.Context
	client, web string // The pod's ports.
	running     sync.WaitGroup
	sent        atomic.Int64

	mu    sync.Mutex // guards the fields below
	conns []io.Closer
	codes map[string]int
}

// attackEnv names an attack and the pod's ports; TestMain becomes the attacker then.
const attackEnv = "BATON_TEST_ATTACK"

// begun is what the attacker prints when it holds what it wants to hold.
const begun = "begun"

// attack attacks until standard input ends.
func attack(arguments string) int {
	named := strings.SplitN(arguments, " ", 3)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	a := &attacker{ctx: ctx, client: named[0], web: named[1]}
	for _, one := range clientAttacks {
		if one.name != named[2] {
			continue
		}
		if err := one.begin(a); err != nil {
			fmt.Println("the attack could not begin:", err)
		}
	}
	fmt.Println(begun)
	_, _ = io.Copy(io.Discard, os.Stdin) // Until the test closes it, or ends.
	stop()
	a.end()
	a.running.Wait()
	fmt.Println(a.report())
	return 0
}

// becomeIdle begins this program again with the scheduling policy SCHED_IDLE, which all
// of its threads have then.
func becomeIdle() {
	const mark = "BATON_TEST_IDLE"
	if os.Getenv(mark) != "" {
		return
	}
	// Linux may share the processors by sessions first, and this is one of its own.
	_ = os.WriteFile("/proc/self/autogroup", []byte("19"), 0o644) // It is not there if not.
	runtime.LockOSThread()
	err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	if err == nil {
		err = unix.Exec(os.Args[0], os.Args, append(os.Environ(), mark+"=yes"))
	}
	fmt.Println("the attacker runs as others do:", err)
}

// attacking is an attacker that runs.
type attacking struct {
	command *exec.Cmd
	input   io.Closer
	output  *bufio.Reader
}

// launchAttack returns when the attacker has begun.
func launchAttack(t *testing.T, name string, on *cluster.Pod) *attacking {
	t.Helper()
	a := &attacking{command: exec.Command(os.Args[0])}
	a.command.Env = append(os.Environ(), attackEnv+"="+on.Client+" "+on.HTTP+" "+name)
	a.command.Stderr = os.Stderr
	a.command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	input, err := a.command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := a.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.input, a.output = input, bufio.NewReader(output)
	if err := a.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.input.Close() // It is closed already, unless the test has failed.
	})
	for {
		line, err := a.output.ReadString('\n')
		if err != nil {
			t.Fatal("the attacker:", err)
		}
		if line = strings.TrimSpace(line); line == begun {
			return a
		}
		t.Error(line)
	}
}

// end ends the attack, and returns the attacker's report.
func (a *attacking) end(t *testing.T) string {
	t.Helper()
	_ = a.input.Close()
	report, err := a.output.ReadString('\n')
	if err != nil {
		t.Error("the attacker:", err)
	}
	_ = a.command.Wait() // It has said what it had to say.
	return strings.TrimSpace(report)
}

func (a *attacker) report() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprintf("%d were sent, and ended with %v", a.sent.Load(), a.codes)
}

func (a *attacker) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.codes == nil {
		a.codes = map[string]int{}
	}
	a.codes[status.Code(err).String()]++
}

func (a *attacker) keep(c io.Closer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conns = append(a.conns, c)
}

func (a *attacker) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.conns {
		_ = c.Close() // Some are closed already.
	}
}

// loop repeats an attack in some goroutines. One that fails waits a moment.
func (a *attacker) loop(goroutines int, once func() error) {
	for range goroutines {
		a.running.Go(func() {
			for a.ctx.Err() == nil {
				a.sent.Add(1)
				if err := once(); err != nil {
					select {
					case <-time.After(10 * time.Millisecond):
					case <-a.ctx.Done():
					}
				}
			}
		})
	}
}

func (a *attacker) dial() (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	return d.DialContext(a.ctx, "tcp", a.client)
}

// raw is a connection that stays until the attack ends.
func (a *attacker) raw() (*rawgrpc.Conn, error) {
	conn, err := a.dial()
	if err != nil {
		return nil, err
	}
	a.keep(conn)
	return rawgrpc.New(conn)
}

// rawConn is a connection for one round of a loop. It ends with the attack at the latest.
func rawConn(a *attacker) (*rawgrpc.Conn, error) {
	conn, err := a.dial()
	if err != nil {
		return nil, err
	}
	context.AfterFunc(a.ctx, func() { _ = conn.Close() })
	return rawgrpc.New(conn)
}

// onConnections has goroutines repeat a step, each on a connection of its own, and on
// another one after an error. The step gets the number of those before it.
func (a *attacker) onConnections(goroutines int, step func(c *rawgrpc.Conn, before int) error) {
	a.loop(goroutines, func() error {
		c, err := rawConn(a)
		if err != nil {
			return err
		}
		defer c.Close()
		for n := 0; a.ctx.Err() == nil; n++ {
			if err := step(c, n); err != nil {
				return err
			}
			a.sent.Add(1)
		}
		return nil
	})
}

// dialGRPC is an ordinary client, whose connections write most bytes at most; 0: all.
func (a *attacker) dialGRPC(most int64) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+a.client, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			conn, err := a.dial()
			if err == nil && most > 0 {
				conn = &stopping{Conn: conn, left: most, ctx: a.ctx}
			}
			return conn, err
		}))
	if err == nil {
		a.keep(conn)
	}
	return conn, err
}

// stopping is a connection that stops in the middle.
type stopping struct {
	net.Conn
	left int64
	ctx  context.Context
}

func (s *stopping) Write(p []byte) (int, error) {
	if s.left -= int64(len(p)); s.left < 0 {
		<-s.ctx.Done()
		return 0, s.ctx.Err()
	}
	return s.Conn.Write(p)
}

// spin attacks nobody, and takes all processor time that is left: so much of the other
// attacks' effect is the machine's.
func spin(a *attacker) error {
	for range runtime.NumCPU() {
		a.running.Go(func() {
			for a.ctx.Err() == nil {
				a.sent.Add(1)
			}
		})
	}
	return nil
}
