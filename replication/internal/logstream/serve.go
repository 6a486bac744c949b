package logstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"

	"github.com/hashicorp/raft"
)

// readBuffer holds what a busy master sends at once.
const readBuffer = 64 << 10

// Serve gives the requests of one connection to the library, one after the
// other, and sends its answers, until ctx or the connection ends; it closes the
// connection. from is the member that sends them, and admit sees each before the
// library does: its error ends the connection.
func Serve(ctx context.Context, conn net.Conn, from raft.RPCHeader, admit func(*raft.AppendEntriesRequest) error, to chan<- raft.RPC) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	r := bufio.NewReaderSize(conn, readBuffer)
	answered := make(chan raft.RPCResponse, 1)
	var buffer []byte
	for {
		req, err := readRequest(r)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		req.RPCHeader = from
		if err := admit(req); err != nil {
			return err
		}
		select {
		case to <- raft.RPC{Command: req, RespChan: answered}:
		case <-ctx.Done():
			return nil
		}
		var answer raft.RPCResponse
		select {
		case answer = <-answered:
		case <-ctx.Done():
			return nil
		}
		// To what the library refuses to look at it gives none: that is a failure.
		resp, ok := answer.Response.(*raft.AppendEntriesResponse)
		if !ok {
			resp = new(raft.AppendEntriesResponse)
		}
		buffer = appendAnswer(buffer[:0], resp)
		if _, err := conn.Write(buffer); err != nil {
			return err
		}
	}
}
