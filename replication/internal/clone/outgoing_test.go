package clone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/batondb/baton/proto/baton/peer/v1"
	"github.com/batondb/baton/replication"
)

// bytesSnapshot is a database of these bytes.
type bytesSnapshot struct {
	io.Reader
	size   int64
	closed bool
}

func (s *bytesSnapshot) Position() replication.Position {
	return replication.Position{Index: 1, Term: 1}
}
func (s *bytesSnapshot) Size() int64  { return s.size }
func (s *bytesSnapshot) Close() error { s.closed = true; return nil }

func newBytesSnapshot(data []byte) *bytesSnapshot {
	return &bytesSnapshot{Reader: bytes.NewReader(data), size: int64(len(data))}
}

// cutSource is a pod whose connections break after so many chunks that were
// sent, of which the receiver gets the first part.
type cutSource struct {
	peerv1.PeerServiceClient
	clones   Sender
	data     []byte
	sent     []int // chunks sent on each connection
	lost     int   // chunks lost of each
	requests int
	opened   []*bytesSnapshot
}

type cutStream struct {
	grpc.ServerStreamingClient[peerv1.CloneResponse]
	messages []*peerv1.CloneResponse
	end      error
}

func (s *cutStream) Recv() (*peerv1.CloneResponse, error) {
	if len(s.messages) == 0 {
		return nil, s.end
	}
	m := s.messages[0]
	s.messages = s.messages[1:]
	return m, nil
}

func (s *cutSource) Clone(_ context.Context, req *peerv1.CloneRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[peerv1.CloneResponse], error) {
	o := s.clones.take(req.CloneId, req.Offset)
	if req.CloneId == "" {
		snap := newBytesSnapshot(s.data)
		s.opened = append(s.opened, snap)
		o = &outgoing{id: "clone", snap: snap}
	} else if o == nil {
		return &cutStream{end: status.Error(codes.FailedPrecondition, "begin again")}, nil
	}
	budget := s.sent[min(s.requests, len(s.sent)-1)]
	s.requests++
	stream := &cutStream{}
	add := func(chunk []byte) {
		stream.messages = append(stream.messages, &peerv1.CloneResponse{CloneId: o.id, TotalBytes: o.snap.Size(), Chunk: bytes.Clone(chunk)})
	}
	for _, chunk := range o.since(req.Offset) {
		add(chunk)
	}
	for ; budget > 0; budget-- {
		chunk, err := o.next()
		if stream.end = err; err != nil {
			return stream, nil //nolint:nilerr // It is the stream's.
		}
		add(chunk)
	}
	stream.messages = stream.messages[:max(0, len(stream.messages)-s.lost)]
	stream.end = status.Error(codes.Unavailable, "the connection was cut")
	s.clones.park(o)
	return stream, nil
}

// S28: a clone whose connection is cut goes on where it was, from the same
// database, also when the last chunks were lost on the way.
//
// Scenario: S28, S29
func TestCloneGoesOn(t *testing.T) {
	data := make([]byte, 40*chunkBytes+12345)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(data)
	for name, s := range map[string]*cutSource{
		"never cut":            {sent: []int{1000}},
		"cut at every chunk":   {sent: []int{1}},
		"chunks lost":          {sent: []int{5, 7, 1, 9}, lost: 3},
		"nothing gets through": {sent: []int{3, 0, 0, 100}, lost: 2},
		"all that is kept":     {sent: []int{40, 100}, lost: keptChunks},
	} {
		t.Run(name, func(t *testing.T) {
			s.data = data
			in := &incoming{ctx: t.Context(), from: s, logger: slog.New(slog.DiscardHandler)}
			if err := in.open(); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(&stream{recv: in.recv, got: func(int64, int64) {}, complete: func() {}})
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
			}
			if len(s.opened) != 1 {
				t.Errorf("%d databases were opened", len(s.opened))
			}
		})
	}
}

// More was lost than is kept, or the source has forgotten: the clone fails, and
// is begun again elsewhere.
//
// Scenario: S28
func TestCloneCannotGoOn(t *testing.T) {
	s := &cutSource{data: make([]byte, 40*chunkBytes), sent: []int{39}, lost: keptChunks + 1}
	in := &incoming{ctx: t.Context(), from: s, logger: slog.New(slog.DiscardHandler)}
	if err := in.open(); err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadAll(&stream{recv: in.recv, got: func(int64, int64) {}, complete: func() {}})
	if status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
}

// One clone is kept; the others' databases are closed.
func TestParkedClones(t *testing.T) {
	var c Sender
	first, second := newBytesSnapshot(nil), newBytesSnapshot(nil)
	c.park(&outgoing{id: "a", snap: first})
	c.park(&outgoing{id: "b", snap: second})
	if !first.closed || second.closed {
		t.Error("the earlier one is to be closed")
	}
	if c.take("a", 0) != nil || c.take("b", 1) != nil || c.take("b", 0) == nil || c.take("b", 0) != nil {
		t.Error("what is taken is the one that is kept, once, from where it is")
	}
	c.park(&outgoing{id: "c", snap: first})
	c.Close()
	third := newBytesSnapshot(nil)
	c.park(&outgoing{id: "d", snap: third})
	if !third.closed {
		t.Error("kept after the end")
	}
}

// readClone reads what a clone of these chunks gives.
func readClone(chunks []string, total int64, last error) (string, error) {
	if last == nil {
		last = io.EOF
	}
	r := &stream{got: func(int64, int64) {}, complete: func() {}, recv: func() (*peerv1.CloneResponse, error) {
		if len(chunks) == 0 {
			return nil, last
		}
		c := chunks[0]
		chunks = chunks[1:]
		return &peerv1.CloneResponse{TotalBytes: total, Chunk: []byte(c)}, nil
	}}
	raw, err := io.ReadAll(r)
	return string(raw), err
}

func TestCloneReader(t *testing.T) {
	cut := errors.New("cut")
	for _, tc := range []struct {
		name   string
		chunks []string
		total  int64
		last   error
		whole  bool
	}{
		{"whole", []string{"ab", "c"}, 3, nil, true},
		{"ends early", []string{"ab"}, 3, nil, false},
		{"more than announced", []string{"ab", "cd"}, 3, nil, false},
		{"cut", []string{"ab", "c"}, 3, cut, false},
		{"nothing", nil, 0, nil, true},
	} {
		got, err := readClone(tc.chunks, tc.total, tc.last)
		if (err == nil) != tc.whole {
			t.Errorf("%s: %q, %v", tc.name, got, err)
		}
	}
}
