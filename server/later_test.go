package server

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/batondb/baton/internal/quota"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// partOf is size bytes, which are encoded now or read later; read says how often.
func partOf(size int, read *int) Part {
	make := func() []byte { return bytes.Repeat([]byte{1}, size) }
	return Part{Size: size, Encode: make, Later: func() func() ([]byte, error) {
		return func() ([]byte, error) { *read++; return make(), nil }
	}}
}

// Of a large answer, what clients take by default is in memory, and a little for each
// part of the rest; one that is too large for a client holds nothing.
func TestLargeAnswers(t *testing.T) {
	var read int
	q := quota.New("bytes of unread answers", maxAnswerBytes)
	a := &Answer{quota: q, who: "somebody"}
	for a.size < 100<<20 {
		if err := a.Add(partOf(AnswerPartBytes, &read)); err != nil {
			t.Fatal(err)
		}
	}
	if used, _ := q.Used(); used < maxAtOnceBytes || used > maxAtOnceBytes+2<<20 {
		t.Errorf("100 MiB hold %d bytes", used)
	}
	for {
		if err := a.Add(partOf(AnswerPartBytes, &read)); err != nil {
			if !errors.Is(err, ErrAnswerTooLarge) || a.size < maxRangeBytes-AnswerPartBytes {
				t.Errorf("after %d bytes: %v", a.size, err)
			}
			break
		}
	}
	a.Reset()
	if used, _ := q.Used(); used != 0 || read != 0 {
		t.Errorf("%d bytes are held, %d parts were read", used, read)
	}
}

// Whoever holds much already keeps nothing of large answers that it could read later.
func TestLargeAnswersOfOneWhoHoldsMuch(t *testing.T) {
	var read int
	q := quota.New("bytes of unread answers", maxAnswerBytes)
	if err := q.Take("somebody", maxAnswerBytes/2-1<<20); err != nil {
		t.Fatal(err)
	}
	a := &Answer{quota: q, who: "somebody"}
	for range 100 {
		if err := a.Add(partOf(AnswerPartBytes, &read)); err != nil {
			t.Fatal(err)
		}
	}
	if a.taken > 200<<10 {
		t.Errorf("%d bytes", a.taken)
	}
}

// A part is read once, when it is to be sent, and dropped then; all is given back when
// the last one is.
func TestPartsAreReadWhenTheyAreSent(t *testing.T) {
	var read int
	q := quota.New("bytes of unread answers", maxAnswerBytes)
	a := &Answer{quota: q, who: "somebody"}
	for range 100 {
		if err := a.Add(partOf(AnswerPartBytes, &read)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := codec{}.Marshal(a.take(t.Context(), &kvv1.PutResponse{}))
	if err != nil || all.Len() != 100*AnswerPartBytes || read != 0 {
		t.Fatalf("%d bytes, %d parts read, %v", all.Len(), read, err)
	}
	reader := all.Reader()
	all.Free()
	for sent := 0; reader.Remaining() > 0; {
		n := min(16_000, reader.Remaining())
		if _, err := reader.Peek(n, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := reader.Discard(n); err != nil {
			t.Fatal(err)
		}
		sent += n
		if most := max(0, sent/AnswerPartBytes+1-maxAtOnceBytes/AnswerPartBytes); read > most {
			t.Fatalf("%d parts were read after %d bytes", read, sent)
		}
	}
	if used, _ := q.Used(); used != 0 || read != 100-maxAtOnceBytes/AnswerPartBytes {
		t.Errorf("%d bytes are held, %d parts were read", used, read)
	}
}

// What cannot be read any more makes the message one that no client takes.
func TestPartsThatAreGone(t *testing.T) {
	for name, again := range map[string]func() ([]byte, error){
		"an error":       func() ([]byte, error) { return make([]byte, 10), errors.New("compacted") },
		"another length": func() ([]byte, error) { return make([]byte, 9), nil },
	} {
		l := newLater(Part{Size: 10, Later: func() func() ([]byte, error) { return again }})
		got := mem.BufferSlice{mem.SliceBuffer("\x12\x01k"), l}.Materialize()
		if len(got) != 13 || proto.Unmarshal(got, &kvv1.KeyValue{}) == nil {
			t.Errorf("%s: %x", name, got)
		}
	}
}

// A large answer costs a tenant all of its bytes: also those that are not counted in
// memory, and those that are read when they are sent.
func TestLargeAnswersCostTheirBytes(t *testing.T) {
	var read int
	a := &Answer{quota: quota.New("bytes of unread answers", maxAnswerBytes), who: "somebody"}
	for range 100 {
		if err := a.Add(partOf(AnswerPartBytes, &read)); err != nil {
			t.Fatal(err)
		}
	}
	if requests, bytes := answerCost(a.take(t.Context(), &kvv1.PutResponse{})); bytes != 100*AnswerPartBytes || requests != bytes/bytesPerRequest {
		t.Errorf("%d bytes cost %v requests and %v bytes", 100*AnswerPartBytes, requests, bytes)
	}
}
