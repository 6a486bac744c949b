package security

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/rawgrpc"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
)

// attacker attacks a pod from 127.0.0.2 until ctx ends.
type attacker struct {
	ctx     context.Context
	pod     *cluster.Pod
	running *sync.WaitGroup
	sent    atomic.Int64

	mu    sync.Mutex // guards the fields below
	conns []io.Closer
	codes map[string]int
}

// clientAttacks hold what they can hold, or repeat, until they are told to end.
var clientAttacks = []struct {
	name  string
	begin func(*attacker) error
}{
	{"headers of 14 MiB", longHeaders},
	{"unread ranges", unreadRanges},
	{"unread pages and scans", unreadPages},
	{"unfinished requests", unfinished},
	{"requests that only begin", onlyBegun},
	{"a transaction over 20 million keys", wideTransactions},
	{"watches", manyWatches},
	{"unread snapshots", unreadSnapshots},
	{"connections", manyConnections},
	{"heap profiles with a collection", profiles},
	{"rapid reset", rapidReset},
	{"PING, SETTINGS and empty frames", smallFrames},
	{"malformed requests", malformed},
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
	return d.DialContext(a.ctx, "tcp", a.pod.Client)
}

func (a *attacker) raw() (*rawgrpc.Conn, error) {
	conn, err := a.dial()
	if err != nil {
		return nil, err
	}
	a.keep(conn)
	return rawgrpc.New(conn)
}

// client is an ordinary one, whose connections write most bytes at most; 0: all.
func (a *attacker) client(most int64) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+a.pod.Client, grpc.WithTransportCredentials(insecure.NewCredentials()),
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

func longHeaders(a *attacker) error {
	first := rawgrpc.Headers("/baton.kv.v1.KVService/Range", hpack.HeaderField{Name: "x", Value: strings.Repeat("v", 15<<10)})
	a.loop(16, func() error {
		c, err := a.raw()
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.Framer.WriteRawFrame(http2.FrameHeaders, 0, 1, first); err != nil {
			return err
		}
		fragment := rawgrpc.Field("y", strings.Repeat("v", 15<<10))
		for sent := 0; sent < 14<<20; sent += len(fragment) {
			if err := c.Framer.WriteContinuation(1, false, fragment); err != nil {
				return err
			}
		}
		<-a.ctx.Done()
		return nil
	})
	return nil
}

// unread makes calls over raw connections whose answers nobody reads.
func (a *attacker) unread(connections, calls int, method string, request proto.Message) error {
	encoded, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	for range connections {
		c, err := a.raw()
		if err != nil {
			return err
		}
		for range calls {
			if _, err := c.Call(method, encoded); err != nil {
				return err
			}
			a.sent.Add(1)
		}
	}
	return nil
}

func unreadRanges(a *attacker) error {
	return a.unread(3, 20, "/etcdserverpb.KV/Range", &pb.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0")})
}

func unreadPages(a *attacker) error {
	all := &kvv1.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0")}
	if err := a.unread(5, 200, "/baton.kv.v1.KVService/Range", all); err != nil {
		return err
	}
	return a.unread(5, 200, "/baton.kv.v1.KVService/Scan", &kvv1.ScanRequest{Range: all})
}

func unreadSnapshots(a *attacker) error {
	if err := a.unread(2, 20, "/baton.kv.v1.MaintenanceService/Snapshot", &kvv1.SnapshotRequest{}); err != nil {
		return err
	}
	return a.unread(2, 20, "/etcdserverpb.Maintenance/Snapshot", &pb.SnapshotRequest{})
}

// unfinished sends halves of large requests.
func unfinished(a *attacker) error {
	for range 6 {
		conn, err := a.client(12 << 20)
		if err != nil {
			return err
		}
		kv := kvv1.NewKVServiceClient(conn)
		for i := range 100 {
			a.running.Go(func() {
				a.sent.Add(1)
				_, err := kv.Put(a.ctx, &kvv1.PutRequest{Key: fmt.Appendf(nil, "half/%d", i), Value: make([]byte, 3<<19)})
				a.note(err)
			})
		}
	}
	return nil
}

func onlyBegun(a *attacker) error {
	for range 10 {
		c, err := a.raw()
		if err != nil {
			return err
		}
		for range 4000 {
			if _, err := c.Begin("/baton.kv.v1.KVService/Put"); err != nil {
				return err
			}
			a.sent.Add(1)
		}
	}
	return nil
}

func wideTransactions(a *attacker) error {
	conn, err := a.client(0)
	if err != nil {
		return err
	}
	count := &kvv1.Op{Op: &kvv1.Op_Range{Range: &kvv1.RangeRequest{Key: []byte("small/"), RangeEnd: []byte("small0"), CountOnly: true}}}
	txn := &kvv1.TxnRequest{}
	for range 100 {
		txn.Success = append(txn.Success, count)
	}
	a.loop(2, func() error {
		_, err := kvv1.NewKVServiceClient(conn).Txn(a.ctx, txn)
		a.note(err)
		return err
	})
	return nil
}

func manyWatches(a *attacker) error {
	for range 3 {
		conn, err := a.client(0)
		if err != nil {
			return err
		}
		for range 4000 {
			a.sent.Add(1)
			if _, err := kvv1.NewWatchServiceClient(conn).Watch(a.ctx, &kvv1.WatchRequest{Key: []byte("none")}); err != nil {
				return err
			}
		}
	}
	// Somebody else's.
	own, err := kvv1.NewWatchServiceClient(a.pod.Conn()).Watch(a.ctx, &kvv1.WatchRequest{Key: []byte("none")})
	if err != nil {
		return err
	}
	if _, err := own.Recv(); err != nil {
		return fmt.Errorf("another client's watch: %w", err)
	}
	return nil
}

func manyConnections(a *attacker) error {
	for range 3000 {
		conn, err := a.dial()
		if err != nil {
			return err
		}
		a.keep(conn)
		a.sent.Add(1)
		_, _ = conn.Write([]byte(http2.ClientPreface)) // It may be closed already.
	}
	return nil
}

func profiles(a *attacker) error {
	a.loop(8, func() error {
		request, err := http.NewRequestWithContext(a.ctx, http.MethodGet, "http://"+a.pod.HTTP+"/debug/pprof/heap?gc=1", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if _, err = io.Copy(io.Discard, answer.Body); err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s", answer.Status)
		}
		return err
	})
	return nil
}

func rapidReset(a *attacker) error {
	a.loop(2, func() error {
		c, err := a.raw()
		if err != nil {
			return err
		}
		defer c.Close()
		for a.ctx.Err() == nil {
			id, err := c.Begin("/baton.kv.v1.KVService/Range")
			if err != nil {
				return err
			}
			if err := c.Framer.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
				return err
			}
			a.sent.Add(1)
		}
		return nil
	})
	return nil
}

func smallFrames(a *attacker) error {
	for _, write := range []func(*http2.Framer) error{
		func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) },
		func(f *http2.Framer) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1})
		},
		func(f *http2.Framer) error { return f.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, []byte{0, 0, 0, 1}) },
		func(f *http2.Framer) error { return f.WriteRawFrame(http2.FramePriority, 0, 1, make([]byte, 5)) },
	} {
		a.loop(1, func() error {
			c, err := a.raw()
			if err != nil {
				return err
			}
			defer c.Close()
			for a.ctx.Err() == nil {
				if err := write(c.Framer); err != nil {
					return err
				}
				a.sent.Add(1)
			}
			return nil
		})
	}
	return nil
}

// malformed sends 64 bytes of every kind of nonsense to every method of the API.
func malformed(a *attacker) error {
	nonsense := make([]byte, 64)
	a.loop(2, func() error {
		c, err := a.raw()
		if err != nil {
			return err
		}
		defer c.Close()
		for i := 0; a.ctx.Err() == nil && i < 2000; i++ {
			for j := range nonsense {
				nonsense[j] = byte(i*31 + j*i)
			}
			method := []string{"KVService/Put", "KVService/Txn", "KVService/Batch", "WatchService/Watch", "LeaseService/Grant", "KVService/Nothing"}[i%6]
			if _, err := c.Call("/baton.kv.v1."+method, nonsense[:i%64]); err != nil {
				return err
			}
			a.sent.Add(1)
		}
		return nil
	})
	return nil
}
