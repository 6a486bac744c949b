package raftio

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"

	"github.com/batondb/baton/replication/internal/peer"
)

// This file is the receiving half of the library's network transport, in the form
// that the library sends. Its own believes in whatever name stands in a message, keeps
// as much of one as is sent, and waits for the rest of a snapshot for ever, on the
// goroutine that votes.

const (
	// maxMessageBytes is more than the library sends at once, snapshots excepted.
	maxMessageBytes = 64 << 20
	// messagePatience is how many of a sender's timeouts a message may take to arrive
	// once it has begun.
	messagePatience = 4
	// snapshotPiece must come of a snapshot within Timing.CloneStall.
	snapshotPiece = 64 << 10
)

// What a message begins with.
const (
	appendEntriesType byte = iota
	requestVoteType
	installSnapshotType
	timeoutNowType
	requestPreVoteType
)

var errTooLong = errors.New("a message of more than 64 MiB")

// accept serves the connections of the library's transports.
func (t *Transport) accept(connections *peer.Listener) {
	for {
		conn, err := connections.Next()
		if err != nil {
			return
		}
		t.ending.serving.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(t.ending.ctx, func() { conn.Close() })()
			if err := t.converse(conn); err != nil && t.ending.ctx.Err() == nil {
				t.replica.Logger.Debug("a connection between members has ended", "from", conn.From, "error", err)
			}
		})
	}
}

// converse answers the messages of one connection, one after the other.
func (t *Transport) converse(conn *peer.Conn) error {
	in, w := &message{r: bufio.NewReaderSize(conn, 64<<10)}, bufio.NewWriter(conn)
	decoder := codec.NewDecoder(in, &codec.MsgpackHandle{})
	handle := &codec.MsgpackHandle{}
	handle.TimeNotBuiltin = true
	encoder := codec.NewEncoder(w, handle)
	for {
		conn.SetReadDeadline(time.Time{})
		if _, err := in.r.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		conn.SetReadDeadline(time.Now().Add(messagePatience * t.timing.Transport))
		in.left = maxMessageBytes
		rpc, err := decode(in, decoder)
		if err != nil {
			return err
		}
		// Who sends it is known from the handshake, whatever it says itself.
		header := rpc.Command.(raft.WithRPCHeader).GetRPCHeader()
		header.ID, header.Addr = []byte(conn.From), []byte(conn.From)
		setHeader(rpc.Command, header)
		if snapshot, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok {
			rpc.Reader = &snapshotReader{r: io.LimitReader(in.r, snapshot.Size), conn: conn, patience: t.timing.CloneStall}
		}
		answer := t.answer(rpc)
		text := ""
		if answer.Error != nil {
			text = answer.Error.Error()
		}
		conn.SetWriteDeadline(time.Now().Add(messagePatience * t.timing.Transport))
		if err := errors.Join(encoder.Encode(text), encoder.Encode(answer.Response), w.Flush()); err != nil {
			return err
		}
		if rpc.Reader != nil && answer.Error != nil {
			return answer.Error // What is left of the snapshot is not worth reading.
		}
	}
}

// message counts what is read of one.
type message struct {
	r    *bufio.Reader
	left int
}

func (m *message) Read(p []byte) (int, error) {
	if m.left <= 0 {
		return 0, errTooLong
	}
	n, err := m.r.Read(p[:min(len(p), m.left)])
	m.left -= n
	return n, err
}

func (m *message) ReadByte() (byte, error) {
	if m.left <= 0 {
		return 0, errTooLong
	}
	m.left--
	return m.r.ReadByte()
}

func (m *message) UnreadByte() error {
	m.left++
	return m.r.UnreadByte()
}

// decode reads a message, without a snapshot's content.
func decode(in *message, decoder *codec.Decoder) (raft.RPC, error) {
	of, err := in.ReadByte()
	if err != nil {
		return raft.RPC{}, err
	}
	var req any
	switch of {
	case appendEntriesType:
		req = new(raft.AppendEntriesRequest)
	case requestVoteType:
		req = new(raft.RequestVoteRequest)
	case installSnapshotType:
		req = new(raft.InstallSnapshotRequest)
	case timeoutNowType:
		req = new(raft.TimeoutNowRequest)
	case requestPreVoteType:
		req = new(raft.RequestPreVoteRequest)
	default:
		return raft.RPC{}, fmt.Errorf("a message of an unknown type %d", of)
	}
	return raft.RPC{Command: req}, decoder.Decode(req)
}

func setHeader(req any, h raft.RPCHeader) {
	switch m := req.(type) {
	case *raft.AppendEntriesRequest:
		m.RPCHeader = h
	case *raft.RequestVoteRequest:
		m.RPCHeader = h
	case *raft.InstallSnapshotRequest:
		m.RPCHeader = h
	case *raft.TimeoutNowRequest:
		m.RPCHeader = h
	case *raft.RequestPreVoteRequest:
		m.RPCHeader = h
	}
}

// snapshotReader ends when the sender makes no progress: the library reads it on the
// goroutine that also votes.
type snapshotReader struct {
	r        io.Reader
	conn     net.Conn
	patience time.Duration
	left     int // Until the next piece begins.
}

func (s *snapshotReader) Read(p []byte) (int, error) {
	if s.left <= 0 {
		s.left = snapshotPiece
		s.conn.SetReadDeadline(time.Now().Add(s.patience))
	}
	n, err := s.r.Read(p)
	s.left -= n
	return n, err
}

// answer gives the library a message, and returns what it says. A message that no
// member sends is refused here.
func (t *Transport) answer(rpc raft.RPC) raft.RPCResponse {
	if err := t.vet(rpc.Command); err != nil {
		t.suspicious(rpc.Command, err)
		return raft.RPCResponse{Error: err}
	}
	answered := make(chan raft.RPCResponse, 1)
	rpc.RespChan = answered
	switch req := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		if fast := t.fast.Load(); fast != nil && isHeartbeat(req) {
			(*fast)(rpc)
			break
		}
		t.admit(req)
		t.give(rpc)
	case *raft.InstallSnapshotRequest:
		if t.has(req) {
			acknowledge(rpc, req.Term)
			break
		}
		t.give(rpc)
	default:
		t.give(rpc)
	}
	select {
	case answer := <-answered:
		return answer
	case <-t.ending.ctx.Done():
		return raft.RPCResponse{Error: raft.ErrTransportShutdown}
	}
}

// give hands a message to the library, or drops it in the end.
func (t *Transport) give(rpc raft.RPC) {
	select {
	case t.received <- rpc:
	case <-t.ending.ctx.Done():
	}
}

// isHeartbeat says whether a message carries neither entries nor a commit index.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return req.Term != 0 && req.PrevLogEntry == 0 && req.PrevLogTerm == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0
}
