package raftio

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/raftlog"
)

// encoded are messages as the library sends them.
func encoded(t testing.TB) [][]byte {
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("kv-1/a"), Addr: []byte("kv-1/a")}
	var all [][]byte
	for of, m := range map[byte]any{
		appendEntriesType:   &raft.AppendEntriesRequest{RPCHeader: header, Term: 3, Entries: []*raft.Log{{Index: 1, Term: 2, Data: []byte{1}}}},
		requestVoteType:     &raft.RequestVoteRequest{RPCHeader: header, Term: 3, LastLogIndex: 9},
		installSnapshotType: &raft.InstallSnapshotRequest{RPCHeader: header, Term: 3, Size: 5},
		timeoutNowType:      &raft.TimeoutNowRequest{RPCHeader: header},
		requestPreVoteType:  &raft.RequestPreVoteRequest{RPCHeader: header, Term: 3},
	} {
		b := bytes.NewBuffer([]byte{of})
		if err := codec.NewEncoder(b, &codec.MsgpackHandle{}).Encode(m); err != nil {
			t.Fatal(err)
		}
		all = append(all, b.Bytes())
	}
	return all
}

// Whatever comes on a connection between members is a message or an error, takes no
// more memory than it has bytes, and does not end the process when it is looked at.
func FuzzReceive(f *testing.F) {
	for _, message := range encoded(f) {
		f.Add(message)
	}
	f.Add([]byte{9})
	noop := bytes.NewBuffer([]byte{appendEntriesType})
	if err := codec.NewEncoder(noop, &codec.MsgpackHandle{}).Encode(&raft.AppendEntriesRequest{Term: 3, Entries: []*raft.Log{{Index: 1, Term: 2, Type: raft.LogNoop}}}); err != nil {
		f.Fatal(err)
	}
	f.Add(noop.Bytes())
	f.Add([]byte{appendEntriesType, 0xdf, 0xff, 0xff, 0xff, 0xff})
	log, err := raftlog.Open(raftlog.Options{
		Dir: f.TempDir(), Logger: hclog.NewNullLogger(), Limit: 1 << 20, HoldLimit: 1 << 20, Hang: time.Minute,
		Failed: func(err error) { f.Error(err) }, Floor: func() uint64 { return 0 },
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { log.Close() })
	tr := &Transport{replica: &Replica{Applied: &AppliedIndex{}, Storage: Storage{Log: log}}}
	tr.raft.Store(leader(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &message{r: bufio.NewReader(bytes.NewReader(data))}
		decoder := codec.NewDecoder(in, &codec.MsgpackHandle{})
		for {
			in.left = maxMessageBytes
			rpc, err := decode(in, decoder)
			if err != nil {
				return
			}
			_ = tr.vet(rpc.Command) // It must not panic.
		}
	})
}

// endless is a message that does not end.
type endless struct{ head []byte }

func (e *endless) Read(p []byte) (int, error) {
	if len(e.head) > 0 {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	clear(p)
	return len(p), nil
}

func TestAMessageWithoutAnEnd(t *testing.T) {
	// A field of 4 GiB: the name of its kind, and its length.
	head := append([]byte{appendEntriesType, 0x81, 0xa4}, "Addr"...)
	head = append(head, 0xc6, 0xff, 0xff, 0xff, 0xff)
	in := &message{r: bufio.NewReader(&endless{head}), left: 1 << 20}
	if _, err := decode(in, codec.NewDecoder(in, &codec.MsgpackHandle{})); err == nil || !strings.Contains(err.Error(), errTooLong.Error()) {
		t.Errorf("it is taken: %v", err)
	}
	if in.left != 0 {
		t.Errorf("%d bytes are left", in.left)
	}
}
