package logstream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

const (
	headBytes   = 8
	fixedBytes  = 32 // of a request's body
	entryBytes  = 25 // of an entry, before data and extensions
	answerBytes = 21
	// maxBody is more than the master sends at once.
	maxBody = 64 << 20
	// firstRead is what most bodies fit in.
	firstRead = 1 << 20

	flagSuccess, flagNoBackoff = 1, 2
)

// ErrMalformed is returned for bytes that are not a frame.
var ErrMalformed = errors.New("malformed message between members")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRequest appends the frame of req to b. Who sends it is not in the
// frame: the receiver knows from the handshake.
func appendRequest(b []byte, req *raft.AppendEntriesRequest) []byte {
	at := len(b)
	b = append(b, make([]byte, headBytes)...)
	b = binary.BigEndian.AppendUint64(b, req.Term)
	b = binary.BigEndian.AppendUint64(b, req.PrevLogEntry)
	b = binary.BigEndian.AppendUint64(b, req.PrevLogTerm)
	b = binary.BigEndian.AppendUint64(b, req.LeaderCommitIndex)
	for _, e := range req.Entries {
		b = appendEntry(b, e)
	}
	head, body := b[at:at+headBytes], b[at+headBytes:]
	binary.BigEndian.PutUint32(head, uint32(len(body)))
	binary.BigEndian.PutUint32(head[4:], crc32.Checksum(body, castagnoli))
	return b
}

func appendEntry(b []byte, e *raft.Log) []byte {
	var appended int64
	if !e.AppendedAt.IsZero() {
		appended = e.AppendedAt.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, e.Term)
	b = binary.BigEndian.AppendUint64(b, uint64(appended))
	b = append(b, byte(e.Type))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Data)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Extensions)))
	b = append(b, e.Data...)
	return append(b, e.Extensions...)
}

// readRequest reads a frame. The entries share its memory. io.EOF: the
// connection ended between two frames.
func readRequest(r *bufio.Reader) (*raft.AppendEntriesRequest, error) {
	var head [headBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < fixedBytes || size > maxBody {
		return nil, fmt.Errorf("%w: a body of %d bytes", ErrMalformed, size)
	}
	body, err := readBody(r, int(size))
	if err != nil {
		return nil, unexpected(err)
	}
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return nil, fmt.Errorf("%w: its checksum does not fit", ErrMalformed)
	}
	return parseRequest(body)
}

// readBody takes memory as the body comes, not as its length claims.
func readBody(r io.Reader, size int) (body []byte, err error) {
	for step := firstRead; len(body) < size; step = len(body) {
		at := len(body)
		body = append(body, make([]byte, min(step, size-at))...)
		if _, err := io.ReadFull(r, body[at:]); err != nil {
			return nil, err
		}
	}
	return body, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func parseRequest(body []byte) (*raft.AppendEntriesRequest, error) {
	req := &raft.AppendEntriesRequest{
		Term:              binary.BigEndian.Uint64(body),
		PrevLogEntry:      binary.BigEndian.Uint64(body[8:]),
		PrevLogTerm:       binary.BigEndian.Uint64(body[16:]),
		LeaderCommitIndex: binary.BigEndian.Uint64(body[24:]),
	}
	for rest := body[fixedBytes:]; len(rest) > 0; {
		e := &raft.Log{Index: req.PrevLogEntry + uint64(len(req.Entries)) + 1}
		var err error
		if rest, err = parseEntry(e, rest); err != nil {
			return nil, err
		}
		req.Entries = append(req.Entries, e)
	}
	return req, nil
}

func parseEntry(e *raft.Log, b []byte) (rest []byte, err error) {
	if len(b) < entryBytes {
		return nil, fmt.Errorf("%w: an entry is cut off", ErrMalformed)
	}
	e.Term = binary.BigEndian.Uint64(b)
	if appended := int64(binary.BigEndian.Uint64(b[8:])); appended != 0 {
		e.AppendedAt = time.Unix(0, appended)
	}
	e.Type = raft.LogType(b[16])
	data, extensions := uint64(binary.BigEndian.Uint32(b[17:])), uint64(binary.BigEndian.Uint32(b[21:]))
	b = b[entryBytes:]
	if data+extensions > uint64(len(b)) {
		return nil, fmt.Errorf("%w: an entry is cut off", ErrMalformed)
	}
	e.Data, b = take(b, data)
	e.Extensions, b = take(b, extensions)
	return b, nil
}

// take cuts n bytes off; appending to them does not change the rest.
func take(b []byte, n uint64) (cut, rest []byte) {
	if n == 0 {
		return nil, b
	}
	return b[:n:n], b[n:]
}

func appendAnswer(b []byte, resp *raft.AppendEntriesResponse) []byte {
	var flags byte
	if resp.Success {
		flags |= flagSuccess
	}
	if resp.NoRetryBackoff {
		flags |= flagNoBackoff
	}
	at := len(b)
	b = binary.BigEndian.AppendUint64(b, resp.Term)
	b = binary.BigEndian.AppendUint64(b, resp.LastLog)
	b = append(b, flags)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

func readAnswer(r *bufio.Reader, resp *raft.AppendEntriesResponse) error {
	var b [answerBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	if crc32.Checksum(b[:answerBytes-4], castagnoli) != binary.BigEndian.Uint32(b[answerBytes-4:]) {
		return fmt.Errorf("%w: its checksum does not fit", ErrMalformed)
	}
	resp.Term, resp.LastLog = binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
	resp.Success, resp.NoRetryBackoff = b[16]&flagSuccess != 0, b[16]&flagNoBackoff != 0
	return nil
}
