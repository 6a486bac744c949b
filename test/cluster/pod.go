package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// Pod is one server. Its methods may be called from several goroutines.
type Pod struct {
	Name               string
	Dir                string // its volume
	Log                string // the file that takes what its processes print
	Certs              string // for connections between pods; see Certify
	Client, Peer, HTTP string // host:port
	Command            []string
	Env                []string // beside this program's own environment
	// TLS is spoken with the client port and the HTTP port; nil: they are plain.
	TLS *tls.Config

	mu      sync.Mutex // guards the fields below
	process *process   // the one that was started last; nil: none was
	conn    *grpc.ClientConn
}

// NewPod makes a pod with its volume and its log under dir, and with addresses
// that no other pod has. It does not run, and has no command yet.
func NewPod(dir, name string) (*Pod, error) {
	p := &Pod{Name: name, Dir: filepath.Join(dir, name), Log: filepath.Join(dir, name+".log")}
	for _, address := range []*string{&p.Client, &p.Peer, &p.HTTP} {
		var err error
		if *address, err = Address(); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Serve is the command that runs kvd in the pod.
func (p *Pod) Serve(kvd string, flags ...string) []string {
	command := []string{
		kvd, "serve", "--name", p.Name, "--data-dir", p.Dir,
		"--listen-client", p.Client, "--listen-peer", p.Peer, "--listen-http", p.HTTP,
	}
	if p.Certs != "" {
		command = append(command, "--certs", p.Certs)
	}
	return append(command, flags...)
}

// Start starts the pod's process, unless it runs, and returns at once.
func (p *Pod) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process.running() {
		return nil
	}
	var err error
	if p.conn == nil {
		if p.conn, err = DialTLS(p.Client, p.TLS); err != nil {
			return err
		}
	}
	started, err := start(p.Log, p.Command, p.Env)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.process = started
	return nil
}

func (p *Pod) current() *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process
}

// Ended is closed when the process that was started last has ended. The pod must
// have been started.
func (p *Pod) Ended() <-chan struct{} { return p.current().ended }

// Running says whether a process of the pod runs; one that is paused does.
func (p *Pod) Running() bool { return p.current().running() }

// State says how the process that was started last has ended; nil: it runs.
func (p *Pod) State() *os.ProcessState {
	if started := p.current(); started != nil && !started.running() {
		return started.command.ProcessState
	}
	return nil
}

// PID is the process that was started last.
func (p *Pod) PID() int { return p.current().command.Process.Pid }

// Pause stops the process where it is, until Resume.
func (p *Pod) Pause() error { return p.current().signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Pod) Resume() error { return p.current().signal(syscall.SIGCONT) }

// Kill is kill -9 of pods at one time. It returns when they have ended.
func Kill(pods ...*Pod) {
	for _, p := range pods {
		_ = p.current().signal(syscall.SIGKILL) // An error: it has ended.
	}
	for _, p := range pods {
		p.current().wait()
	}
}

// StopLimit is how long a pod may take to end after SIGTERM: well under the 30 s
// that Kubernetes gives it.
const StopLimit = 20 * time.Second

// Stop is SIGTERM to pods at one time. It returns when they have ended. Whoever
// does not in time is killed; that is an error, and so is a status other than 0.
func Stop(pods ...*Pod) error {
	for _, p := range pods {
		_ = p.current().signal(syscall.SIGTERM) // An error: it has ended, and has a status.
	}
	limit := time.After(StopLimit)
	var failed error
	for _, p := range pods {
		stopped := p.current()
		if stopped == nil {
			continue
		}
		select {
		case <-stopped.ended:
			if code := stopped.command.ProcessState.ExitCode(); code != 0 {
				failed = errors.Join(failed, fmt.Errorf("%s ended with %v after SIGTERM", p.Name, stopped.command.ProcessState))
			}
		case <-limit:
			limit = time.After(0) // For the next one.
			_ = stopped.signal(syscall.SIGQUIT)
			select { // Its goroutines are in its log then.
			case <-stopped.ended:
			case <-time.After(5 * time.Second):
			}
			Kill(p)
			failed = errors.Join(failed, fmt.Errorf("%s did not end within %v of SIGTERM", p.Name, StopLimit))
		}
	}
	return failed
}

// Wipe deletes the volume of a pod that does not run.
func (p *Pod) Wipe() error { return os.RemoveAll(p.Dir) }

// Conn is one connection to the client port of a pod that was started, which
// everybody shares. It is made again soon after the pod is back.
func (p *Pod) Conn() *grpc.ClientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// Dial connects to a pod's client port.
func Dial(address string) (*grpc.ClientConn, error) { return DialTLS(address, nil) }

// DialTLS is Dial to a port that speaks TLS; nil: it is plain. More options go beside
// its own.
func DialTLS(address string, config *tls.Config, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if config != nil {
		transport = credentials.NewTLS(config)
	}
	return grpc.NewClient("passthrough:///"+address, append(more,
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))...)
}

// Close ends the process and the connection, for good. The files stay.
func (p *Pod) Close() {
	Kill(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil {
		_ = p.conn.Close()
	}
}

// askLimit bounds one question to one pod.
const askLimit = 2 * time.Second

// Status is the cluster as the pod sees it, or the pod alone.
func (p *Pod) Status(ctx context.Context, ownOnly bool) (*kvv1.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	status, err := kvv1.NewClusterServiceClient(p.Conn()).Status(ctx, &kvv1.StatusRequest{ThisPodOnly: ownOnly})
	if err == nil && ownOnly && len(status.GetPods()) != 1 {
		err = fmt.Errorf("%s says %v of itself", p.Name, status.GetPods())
	}
	return status, err
}

// Get asks the pod's HTTP port.
func (p *Pod) Get(ctx context.Context, path string) (text string, code int, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	scheme, client := "http://", http.DefaultClient
	if p.TLS != nil {
		transport := &http.Transport{TLSClientConfig: p.TLS}
		defer transport.CloseIdleConnections()
		scheme, client = "https://", &http.Client{Transport: transport}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+p.HTTP+path, nil)
	if err != nil {
		return "", 0, err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), response.StatusCode, err
}

// Ready is nil when the readiness probe says so; otherwise it says why not.
func (p *Pod) Ready(ctx context.Context) error {
	text, code, err := p.Get(ctx, "/readyz?verbose")
	if err == nil && code != http.StatusOK {
		err = errors.New(strings.TrimSpace(text))
	}
	if err != nil {
		return fmt.Errorf("%s is not ready: %w", p.Name, err)
	}
	return nil
}

// Printed is what the pod's processes have printed.
func (p *Pod) Printed() string {
	text, err := os.ReadFile(p.Log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err.Error()
	}
	return string(text)
}

// shownLines of what a pod printed are enough for a person to see what is wrong.
const shownLines = 20

// Last is the end of what pods printed.
func Last(pods ...*Pod) string {
	var all strings.Builder
	for _, p := range pods {
		lines := strings.Split(strings.TrimSpace(p.Printed()), "\n")
		fmt.Fprintf(&all, "%s (running: %t) printed:\n  %s\n", p.Name, p.Running(), strings.Join(lines[max(0, len(lines)-shownLines):], "\n  "))
	}
	return all.String()
}
