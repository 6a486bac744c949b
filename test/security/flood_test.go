package security

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

// The tenant that floods is a process of its own, as attackers are, so that it costs the
// neighbour, which is measured, nothing that it would not cost it from another machine.
var (
	floodTo    = flag.String("flood", "", "flood these pods, until the input ends")
	floodRate  = flag.Int("flood-rate", 0, "writes a second, over all of them")
	floodToken = flag.String("flood-token", "", "the token to flood with")
)

// floodConnections to each pod, from an address of their own.
const floodConnections = 4

// flooding is such a process.
type flooding struct {
	process *exec.Cmd
	stop    io.Closer
	says    *bufio.Reader
}

func startFlood(t *testing.T, as context.Context, c *cluster.Cluster, perSecond int) *flooding {
	t.Helper()
	var to []string
	for _, p := range c.Pods {
		to = append(to, p.Client)
	}
	sent, _ := metadata.FromOutgoingContext(as)
	f := &flooding{process: exec.Command(os.Args[0], "-flood", strings.Join(to, ","), "-flood-rate", fmt.Sprint(perSecond), "-flood-token", sent.Get("token")[0])}
	f.process.Stderr = os.Stderr
	f.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	stop, err := f.process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	says, err := f.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.stop, f.says = stop, bufio.NewReader(says)
	if err := f.process.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.says.ReadString('\n'); err != nil {
		t.Fatal("the flood does not begin: ", err)
	}
	return f
}

func (f *flooding) end(t *testing.T) (sent, passed int, lasted time.Duration) {
	t.Helper()
	_ = f.stop.Close() // It reads until then.
	if _, err := fmt.Fscan(f.says, &sent, &passed, &lasted); err != nil {
		t.Fatal("the flood says nothing: ", err)
	}
	if err := f.process.Wait(); err != nil {
		t.Fatal(err)
	}
	return sent, passed, lasted
}

// used is how much of the processors it took.
func (f *flooding) used() time.Duration {
	return f.process.ProcessState.UserTime() + f.process.ProcessState.SystemTime()
}

// flood is the process.
func flood() int {
	begun := time.Now()
	ctx, stop := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "token", *floodToken))
	defer stop()
	var sent, passed atomic.Int64
	var running sync.WaitGroup
	pods := strings.Split(*floodTo, ",")
	interval := time.Second * time.Duration(len(pods)*floodConnections) / time.Duration(*floodRate)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for _, pod := range pods {
		for n := range floodConnections {
			conn, err := grpc.NewClient("passthrough:///"+pod, grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
					return from.DialContext(ctx, "tcp", address)
				}))
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			running.Go(func() {
				defer conn.Close()
				repeat(ctx, interval, func(i int) {
					sent.Add(1)
					put := &kvv1.PutRequest{Key: fmt.Appendf(nil, "noisy/%d/%d", n, i%1000), Value: make([]byte, 256)}
					if _, err := kvv1.NewKVServiceClient(conn).Put(ctx, put); err == nil {
						passed.Add(1)
					}
				})
			})
		}
	}
	fmt.Println("begun")
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	running.Wait()
	fmt.Println(sent.Load(), passed.Load(), int64(time.Since(begun)))
	return 0
}

// repeat does something at each interval, whether or not what it did before has ended.
func repeat(ctx context.Context, interval time.Duration, do func(i int)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			running.Go(func() { do(i) })
		}
	}
}
