package security

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/rawgrpc"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// clientAttacks hold what they can hold, or repeat, until they are told to end.
var clientAttacks = []struct {
	name  string
	begin func(*attacker) error
}{
	{"nothing, with all of its processors", spin},
	{"headers of 14 MiB", longHeaders},
	{"unread ranges", unreadRanges},
	{"unread pages and scans", unreadPages},
	{"thousands of pages at once", manyPages},
	{"unread small answers", unreadSmall},
	{"unfinished requests", unfinished},
	{"messages in small pieces", pieces},
	{"requests that only begin", onlyBegun},
	{"a transaction over 20 million keys", wideTransactions},
	{"watches", manyWatches},
	{"unread snapshots", unreadSnapshots},
	{"connections", manyConnections},
	{"connections that end at once", shortConnections},
	{"heap profiles with a collection", profiles},
	{"rapid reset", rapidReset},
	{"rapid reset of whole calls", rapidResetWhole},
	{"PING, SETTINGS and empty frames", smallFrames},
	{"malformed requests", malformed},
	{"malformed headers", malformedHeaders},
}

func longHeaders(a *attacker) error {
	first := rawgrpc.Headers("/baton.kv.v1.KVService/Range", hpack.HeaderField{Name: "x", Value: strings.Repeat("v", 15<<10)})
	a.loop(16, func() error {
		c, err := rawConn(a)
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
	return a.unread(3, 100, "/etcdserverpb.KV/Range", &pb.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0")})
}

func unreadPages(a *attacker) error {
	all := &kvv1.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0")}
	if err := a.unread(5, 200, "/baton.kv.v1.KVService/Range", all); err != nil {
		return err
	}
	return a.unread(5, 200, "/baton.kv.v1.KVService/Scan", &kvv1.ScanRequest{Range: all})
}

// manyPages asks for 24 GB at once.
func manyPages(a *attacker) error {
	return a.unread(3, 4000, "/baton.kv.v1.KVService/Range", &kvv1.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0")})
}

// unreadSmall leaves 2 GB of answers unread, each of which is hardly worth a count.
func unreadSmall(a *attacker) error {
	return a.unread(18, 4000, "/baton.kv.v1.KVService/Range", &kvv1.RangeRequest{Key: []byte("medium")})
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
		conn, err := a.dialGRPC(12 << 20)
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

// pieces sends messages of 4 MiB a byte at a time.
func pieces(a *attacker) error {
	a.loop(2, func() error {
		c, err := rawConn(a)
		if err != nil {
			return err
		}
		defer c.Close()
		id, err := c.Begin("/baton.kv.v1.KVService/Put")
		if err != nil {
			return err
		}
		frames := rawgrpc.Many(func(f *http2.Framer) {
			for range 1000 {
				_ = f.WriteData(id, false, []byte{1})
			}
		})
		if err := c.Send(id, rawgrpc.Message(make([]byte, 4<<20-100))[:10], false); err != nil {
			return err
		}
		for a.ctx.Err() == nil {
			if _, err := c.Write(frames); err != nil {
				return err
			}
			a.sent.Add(1000)
		}
		return nil
	})
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
	conn, err := a.dialGRPC(0)
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
		conn, err := a.dialGRPC(0)
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

func shortConnections(a *attacker) error {
	a.loop(4, func() error {
		c, err := rawConn(a)
		if err != nil {
			return err
		}
		return c.Close()
	})
	return nil
}

func profiles(a *attacker) error {
	a.loop(8, func() error {
		request, err := http.NewRequestWithContext(a.ctx, http.MethodGet, "http://"+a.web+"/debug/pprof/heap?gc=1", nil)
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
	a.onConnections(2, func(c *rawgrpc.Conn, _ int) error {
		id, err := c.Begin("/baton.kv.v1.KVService/Range")
		if err != nil {
			return err
		}
		return c.Framer.WriteRSTStream(id, http2.ErrCodeCancel)
	})
	return nil
}

func rapidResetWhole(a *attacker) error {
	encoded, err := proto.Marshal(&kvv1.RangeRequest{Key: []byte("small/"), RangeEnd: []byte("small0"), Limit: 1000})
	if err != nil {
		return err
	}
	a.onConnections(2, func(c *rawgrpc.Conn, _ int) error {
		id, err := c.Call("/baton.kv.v1.KVService/Range", encoded)
		if err != nil {
			return err
		}
		return c.Framer.WriteRSTStream(id, http2.ErrCodeCancel)
	})
	return nil
}

func malformedHeaders(a *attacker) error {
	a.onConnections(2, func(c *rawgrpc.Conn, before int) error {
		block := rawgrpc.Field("content-type", "text/plain")
		return c.Framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(1 + 2*before), BlockFragment: block, EndHeaders: true})
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
		a.onConnections(1, func(c *rawgrpc.Conn, _ int) error { return write(c.Framer) })
	}
	return nil
}

// malformed sends 64 bytes of every kind of nonsense to every method of the API.
func malformed(a *attacker) error {
	nonsense := make([]byte, 64)
	a.loop(2, func() error {
		c, err := rawConn(a)
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
