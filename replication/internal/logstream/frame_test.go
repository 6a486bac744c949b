package logstream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func requests() []*raft.AppendEntriesRequest {
	at := time.Unix(1700000000, 123)
	return []*raft.AppendEntriesRequest{
		{},
		{Term: 7, PrevLogEntry: 9, PrevLogTerm: 6, LeaderCommitIndex: 8},
		{Term: 1<<63 + 1, PrevLogEntry: 9, PrevLogTerm: 6, LeaderCommitIndex: 8, Entries: []*raft.Log{
			{Index: 10, Term: 7, Type: raft.LogNoop},
			{Index: 11, Term: 7, Type: raft.LogConfiguration, Data: []byte("x"), AppendedAt: at},
			{Index: 12, Term: 7, Data: bytes.Repeat([]byte("data"), 2_000), Extensions: []byte{1, 2, 3, 4}, AppendedAt: at},
		}},
	}
}

func read(b []byte) (*raft.AppendEntriesRequest, error) {
	return readRequest(bufio.NewReader(bytes.NewReader(b)))
}

func TestRequestRoundTrip(t *testing.T) {
	var stream []byte
	for _, req := range requests() {
		stream = appendRequest(stream, req)
	}
	r := bufio.NewReader(bytes.NewReader(stream))
	for _, want := range requests() {
		got, err := readRequest(r)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v came back as %+v, %v", want, got, err)
		}
	}
	if _, err := readRequest(r); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}

func TestAnswerRoundTrip(t *testing.T) {
	for _, want := range []raft.AppendEntriesResponse{
		{}, {Term: 3, LastLog: 4}, {Term: 3, LastLog: 1 << 63, Success: true}, {NoRetryBackoff: true},
	} {
		var got raft.AppendEntriesResponse
		b := appendAnswer(nil, &want)
		if err := readAnswer(bufio.NewReader(bytes.NewReader(b)), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v came back as %+v, %v", want, got, err)
		}
		for i := range b {
			b[i] ^= 0x10
			if err := readAnswer(bufio.NewReader(bytes.NewReader(b)), &got); !errors.Is(err, ErrMalformed) {
				t.Errorf("byte %d changed: %v", i, err)
			}
			b[i] ^= 0x10
		}
	}
}

// framed makes a frame whose checksum fits.
func framed(body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
	return append(b, body...)
}

func TestRefusals(t *testing.T) {
	good := appendRequest(nil, requests()[2])
	changed := bytes.Clone(good)
	changed[len(changed)-9]++
	huge := bytes.Clone(good)
	binary.BigEndian.PutUint32(huge, maxBody+1)
	body := good[headBytes:]
	long := bytes.Clone(body)
	binary.BigEndian.PutUint32(long[fixedBytes+17:], 1<<32-1)
	binary.BigEndian.PutUint32(long[fixedBytes+21:], 1<<32-1)
	for _, tc := range []struct {
		name  string
		frame []byte
		want  error
	}{
		{"nothing", nil, io.EOF},
		{"a part of the head", good[:5], io.ErrUnexpectedEOF},
		{"the head alone", good[:headBytes], io.ErrUnexpectedEOF},
		{"cut", good[:len(good)-1], io.ErrUnexpectedEOF},
		{"a changed byte", changed, ErrMalformed},
		{"a huge body", huge, ErrMalformed},
		{"a short body", framed(body[:fixedBytes-1]), ErrMalformed},
		{"half an entry's head", framed(body[:fixedBytes+10]), ErrMalformed},
		{"half an entry", framed(body[:len(body)-1]), ErrMalformed},
		{"an entry longer than the body", framed(long), ErrMalformed},
	} {
		if _, err := read(tc.frame); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// What is accepted is written back the same.
func FuzzReadRequest(f *testing.F) {
	for _, req := range requests() {
		f.Add(appendRequest(nil, req)[headBytes:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := read(framed(body))
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again := appendRequest(nil, req)[headBytes:]; !bytes.Equal(again, body) {
			t.Fatalf("%x was written back as %x", body, again)
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	f.Add(appendAnswer(nil, &raft.AppendEntriesResponse{Term: 3, LastLog: 9, Success: true}))
	f.Add(make([]byte, answerBytes))
	f.Fuzz(func(t *testing.T, data []byte) {
		var resp raft.AppendEntriesResponse
		if readAnswer(bufio.NewReader(bytes.NewReader(data)), &resp) != nil {
			return
		}
		if again := appendAnswer(nil, &resp); !bytes.Equal(again[:16], data[:16]) {
			t.Errorf("%x is sent again as %x", data, again)
		}
	})
}
