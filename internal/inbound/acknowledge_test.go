package inbound

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"testing"

	"golang.org/x/net/http2"
)

// writes notes what is written to a connection at one time.
type writes struct {
	net.Conn
	all  []string
	room int // Bytes until it fails; below 0: any number.
}

func (w *writes) Write(p []byte) (int, error) {
	if w.room >= 0 && len(p) > w.room {
		return w.room, errors.New("full")
	}
	w.all = append(w.all, string(p))
	return len(p), nil
}

// The acknowledgement of a measurement goes with what is written next, between two
// frames, and once; nothing else waits.
func TestAcknowledgementsOfMeasurements(t *testing.T) {
	frame := func(write func(*http2.Framer) error) string {
		var to bytes.Buffer
		if err := write(http2.NewFramer(&to, nil)); err != nil {
			t.Fatal(err)
		}
		return to.String()
	}
	data := func(payload string) string {
		return frame(func(f *http2.Framer) error { return f.WriteData(1, false, []byte(payload)) })
	}
	ack := frame(func(f *http2.Framer) error { return f.WritePing(true, [8]byte{2, 4, 16, 16, 9, 14, 7, 7}) })
	other := frame(func(f *http2.Framer) error { return f.WritePing(true, [8]byte{2, 4, 16, 16, 9, 14, 7}) })
	large := data(string(make([]byte, bufferBytes)))
	a, b := data("a"), data("more of it")
	to := &writes{room: -1}
	out := &outgoing{Conn: to, begun: func([]byte) {}, failed: func() {}}
	for i, step := range []struct{ write, want []string }{
		{[]string{a}, []string{a}},
		{[]string{ack}, nil},
		{[]string{a, b}, []string{a + ack, b}},
		{[]string{other}, []string{other}},
		{[]string{ack, ack, ack, a}, []string{ack + ack, a + ack}},
		{[]string{ack, large}, []string{ack, large}},
		{[]string{ack + a, b}, []string{ack + a, b}},
		{[]string{ack, b[:12], b[12:]}, []string{ack + b[:12], b[12:]}},
		{[]string{ack, b[:4], b[4:]}, []string{ack + b[:4], b[4:]}},
		{[]string{ack, large[:100], large[100:], a}, []string{ack + large[:100], large[100:], a}},
		// What looks like one may be somebody's value.
		{[]string{data(ack)[:headerBytes], ack, a}, []string{data(ack)[:headerBytes], ack, a}},
	} {
		to.all = nil
		for _, p := range step.write {
			if n, err := out.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatalf("step %d: %d bytes: %d, %v", i, len(p), n, err)
			}
		}
		if !slices.Equal(to.all, step.want) {
			t.Errorf("step %d: %.100q, want %.100q", i, to.all, step.want)
		}
	}
	for _, try := range []struct {
		next       string
		room, want int
	}{{a, 0, 0}, {a, 2, 2}, {a, len(a) + 1, len(a)}, {a[:2], 5, 0}, {a[:2], len(ack) + 1, 1}} {
		full := &outgoing{Conn: &writes{room: try.room}, begun: func([]byte) {}, failed: func() {}, owes: true}
		if n, err := full.Write([]byte(try.next)); n != try.want || err == nil {
			t.Errorf("%+v: %d, %v", try, n, err)
		}
	}
}
