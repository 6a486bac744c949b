package answers

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// Answer is what a system made of a request: a message or an error.
type Answer struct {
	Message proto.Message
	Err     error
}

// Normalize removes what cannot be equal: the names of the servers, Raft's term, what a
// clock decides, tokens, and the order of what has none.
func (a Answer) Normalize() {
	if m, ok := a.Message.(interface{ GetHeader() *pb.ResponseHeader }); ok && m.GetHeader() != nil {
		header := m.GetHeader()
		header.ClusterId, header.MemberId, header.RaftTerm = 0, 0, 0
	}
	switch m := a.Message.(type) {
	case *pb.AuthenticateResponse:
		m.Token = ""
	case *pb.LeaseTimeToLiveResponse:
		m.TTL = min(m.TTL, 1)
		slices.SortFunc(m.Keys, bytes.Compare)
	case *pb.LeaseLeasesResponse:
		slices.SortFunc(m.Leases, func(x, y *pb.LeaseStatus) int { return cmp.Compare(x.GetID(), y.GetID()) })
	}
}

// Equal compares all fields of a message, or code and text of an error.
func (a Answer) Equal(other Answer) bool {
	if a.Err != nil || other.Err != nil {
		x, y := status.Convert(a.Err), status.Convert(other.Err)
		return x.Code() == y.Code() && x.Message() == y.Message()
	}
	return proto.Equal(a.Message, other.Message)
}

func (a Answer) String() string {
	if a.Err != nil {
		return fmt.Sprintf("%v: %s", status.Code(a.Err), status.Convert(a.Err).Message())
	}
	return Text(a.Message)
}

// Text is a message for people.
func Text(message proto.Message) string {
	return fmt.Sprintf("%T{%s}", message, Short(prototext.MarshalOptions{}.Format(message)))
}

// Short leaves out the middle of large values.
func Short(text string) string {
	const most = 6000
	if len(text) <= most {
		return text
	}
	return text[:most/2] + " ... " + text[len(text)-most/2:]
}
