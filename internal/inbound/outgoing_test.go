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

func frame(t *testing.T, write func(*http2.Framer) error) string {
	var to bytes.Buffer
	if err := write(http2.NewFramer(&to, nil)); err != nil {
		t.Fatal(err)
	}
	return to.String()
}

func dataFrame(t *testing.T, payload string) string {
	return frame(t, func(f *http2.Framer) error { return f.WriteData(1, false, []byte(payload)) })
}

func pingFrame(t *testing.T, payload ...byte) string {
	return frame(t, func(f *http2.Framer) error { return f.WritePing(true, [8]byte(payload)) })
}

// The acknowledgement of a measurement waits until so much was sent that it says
// something, goes with what is written then, and is in no frame.
func TestAcknowledgementsWaitForMeasurements(t *testing.T) {
	ack := pingFrame(t, 2, 4, 16, 16, 9, 14, 7, 7)
	half := dataFrame(t, string(make([]byte, worthMeasuring/2-headerBytes)))
	to := &writes{room: -1}
	out := &outgoing{Conn: to, begun: func([]byte) {}, failed: func() {}}
	for i, step := range []struct{ write, want []string }{
		{[]string{ack, half, half, half}, []string{half, half + ack, half}},
		{[]string{half, ack, half}, []string{half, half + ack}},
		{[]string{ack, half[:100], half[100:], half}, []string{half[:100], half[100:], half + ack}},
		{[]string{ack, half, half[:100], half[100:200], half[200:]}, []string{half, half[:100], half[100:200], half[200:] + ack}},
		{[]string{ack, half, half[:100], half[100:] + half + half + half + half}, []string{half, half[:100], half[100:] + half + half + half + half + ack}},
	} {
		to.all, out.sent = nil, 0
		for _, p := range step.write {
			if n, err := out.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatalf("step %d: %d bytes: %d, %v", i, len(p), n, err)
			}
		}
		if !slices.Equal(to.all, step.want) {
			t.Errorf("step %d: %.100q, want %.100q", i, to.all, step.want)
		}
	}
}

// The acknowledgement of a measurement goes with what is written next, between two
// frames, and once; nothing else waits.
func TestAcknowledgementsOfMeasurements(t *testing.T) {
	data := func(payload string) string { return dataFrame(t, payload) }
	ack := pingFrame(t, 2, 4, 16, 16, 9, 14, 7, 7)
	other := pingFrame(t, 2, 4, 16, 16, 9, 14, 7, 0)
	large := data(string(make([]byte, bufferBytes)))
	a, b := data("a"), data("more of it")
	to := &writes{room: -1}
	out := &outgoing{Conn: to, begun: func([]byte) {}, failed: func() {}}
	for i, step := range []struct{ write, want []string }{
		{[]string{a}, []string{a}},
		{[]string{ack}, nil},
		{[]string{a, b}, []string{a + ack, b}},
		{[]string{other}, []string{other}},
		{[]string{ack, ack}, []string{ack + ack}},
		{[]string{ack, large}, []string{large + ack}},
		{[]string{ack + a, b}, []string{ack + a, b}},
		{[]string{ack, b[:12], b[12:]}, []string{ack + b[:12], b[12:]}},
		{[]string{ack, b[:4], b[4:]}, []string{ack + b[:4], b[4:]}},
		{[]string{ack, large[:100], large[100:], a}, []string{ack + large[:100], large[100:], a}},
		// What looks like one may be somebody's value.
		{[]string{data(ack)[:headerBytes], ack, a}, []string{data(ack)[:headerBytes], ack, a}},
	} {
		to.all, out.sent = nil, worthMeasuring
		for _, p := range step.write {
			if n, err := out.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatalf("step %d: %d bytes: %d, %v", i, len(p), n, err)
			}
		}
		if !slices.Equal(to.all, step.want) {
			t.Errorf("step %d: %.100q, want %.100q", i, to.all, step.want)
		}
	}
	for _, room := range []int{0, 2, len(a) + 1} {
		failed := false
		full := &outgoing{Conn: &writes{room: room}, begun: func([]byte) {}, failed: func() { failed = true }, owes: true, sent: worthMeasuring}
		if n, err := full.Write([]byte(a)); n != 0 || err == nil || !failed {
			t.Errorf("with room for %d bytes: %d, %v", room, n, err)
		}
	}
}
