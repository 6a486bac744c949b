package handshake

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Version is the protocol that this pod speaks.
const Version = 1

const (
	magic     = "BATON\r\n" // a CR LF shows a connection mangled as text
	maxBody   = 4096
	maxString = 512
	headLen   = len(magic) + 4

	typeHello   = 1
	typeWelcome = 2
)

// ErrMalformed is returned for bytes that are not a handshake.
var ErrMalformed = errors.New("not a baton handshake")

// Kind is what a connection is for.
type Kind byte

const (
	// Raft carries votes, heartbeats, snapshots, and the log to those who lag.
	Raft Kind = 1
	// Calls carries gRPC.
	Calls Kind = 2
	// Append carries the log to those who have caught up.
	Append Kind = 3
)

// Reason is why a connection was refused.
type Reason byte

const (
	// Accepted: it was not.
	Accepted Reason = iota
	// WrongVersion of the protocol.
	WrongVersion
	// WrongCluster: the pods belong to different clusters.
	WrongCluster
	// WrongPod: the name led to another pod.
	WrongPod
	// WrongMember: the pod is there with another disk.
	WrongMember
	// NotStarted: the pod takes no part in the log yet.
	NotStarted
	// Malformed: it was no handshake.
	Malformed
	// NotSecured: it was no TLS, or none that this side takes.
	NotSecured
	// Untrusted: the certificate is none that counts here.
	Untrusted
	// WrongCertificate: it is another pod's.
	WrongCertificate
)

// String is the reason's name in metrics and logs.
func (r Reason) String() string {
	names := [...]string{
		"accepted", "wrong_version", "wrong_cluster", "wrong_pod", "wrong_member", "not_started", "malformed",
		"not_secured", "untrusted", "wrong_certificate",
	}
	if int(r) < len(names) {
		return names[r]
	}
	return "unknown"
}

// Refused is the error of a refused dial.
type Refused struct {
	Reason  Reason
	Message string
}

func (r *Refused) Error() string {
	return fmt.Sprintf("peer refused the connection: %s: %s", r.Reason, r.Message)
}

// Hello is the caller's half.
type Hello struct {
	Kind Kind
	// Cluster is empty while the caller belongs to none.
	Cluster string
	// Member and Pod are the caller's.
	Member, Pod string
	// TargetPod is whom the caller wants; TargetMember may be empty: any incarnation.
	TargetPod, TargetMember string
}

// Welcome is the answer.
type Welcome struct {
	Reason               Reason
	Message              string
	Cluster, Member, Pod string
}

// WriteHello sends the caller's half.
func WriteHello(w io.Writer, h Hello) error {
	return write(w, typeHello, byte(h.Kind), h.Cluster, h.Member, h.Pod, h.TargetPod, h.TargetMember)
}

// ReadHello reads the caller's half.
func ReadHello(r io.Reader) (Hello, error) {
	lead, s, err := read(r, typeHello, 5)
	if err != nil {
		return Hello{}, err
	}
	h := Hello{Kind: Kind(lead), Cluster: s[0], Member: s[1], Pod: s[2], TargetPod: s[3], TargetMember: s[4]}
	if h.Kind < Raft || h.Kind > Append {
		return Hello{}, fmt.Errorf("%w: kind %d", ErrMalformed, lead)
	}
	return h, nil
}

// WriteWelcome answers.
func WriteWelcome(w io.Writer, m Welcome) error {
	if len(m.Message) > maxString {
		m.Message = m.Message[:maxString]
	}
	return write(w, typeWelcome, byte(m.Reason), m.Message, m.Cluster, m.Member, m.Pod)
}

// ReadWelcome reads the answer; a refusal is a *Refused.
func ReadWelcome(r io.Reader) (Welcome, error) {
	lead, s, err := read(r, typeWelcome, 4)
	if err != nil {
		return Welcome{}, err
	}
	m := Welcome{Reason: Reason(lead), Message: s[0], Cluster: s[1], Member: s[2], Pod: s[3]}
	if m.Reason != Accepted {
		return m, &Refused{Reason: m.Reason, Message: m.Message}
	}
	return m, nil
}

func write(w io.Writer, typ, lead byte, strs ...string) error {
	body := []byte{lead}
	for _, s := range strs {
		if len(s) > maxString {
			return fmt.Errorf("handshake: a name of %d bytes, at most %d", len(s), maxString)
		}
		body = binary.BigEndian.AppendUint16(body, uint16(len(s)))
		body = append(body, s...)
	}
	frame := append([]byte(magic), Version, typ)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(body)))
	_, err := w.Write(append(frame, body...))
	return err
}

func read(r io.Reader, typ byte, count int) (lead byte, strs []string, err error) {
	head := make([]byte, headLen)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	if string(head[:len(magic)]) != magic || head[len(magic)+1] != typ {
		return 0, nil, ErrMalformed
	}
	if v := head[len(magic)]; v != Version {
		return 0, nil, &Refused{Reason: WrongVersion, Message: fmt.Sprintf("the peer speaks version %d, this pod %d", v, Version)}
	}
	size := int(binary.BigEndian.Uint16(head[len(magic)+2:]))
	if size == 0 || size > maxBody {
		return 0, nil, fmt.Errorf("%w: a body of %d bytes", ErrMalformed, size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	lead, body = body[0], body[1:]
	for range count {
		if len(body) < 2 {
			return 0, nil, fmt.Errorf("%w: it is too short", ErrMalformed)
		}
		n := int(binary.BigEndian.Uint16(body))
		if n > maxString || n > len(body)-2 {
			return 0, nil, fmt.Errorf("%w: a string of %d bytes", ErrMalformed, n)
		}
		strs = append(strs, string(body[2:2+n]))
		body = body[2+n:]
	}
	if len(body) != 0 {
		return 0, nil, fmt.Errorf("%w: bytes after its end", ErrMalformed)
	}
	return lead, strs, nil
}
