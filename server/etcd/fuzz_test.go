package etcd

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/batondb/baton/server"
)

// methods are those of all services, in the order of their names.
func methods(t testing.TB) []protoreflect.MethodDescriptor {
	t.Helper()
	listed := grpc.NewServer()
	Register(listed, &server.Backend{})
	var all []protoreflect.MethodDescriptor
	for name := range listed.GetServiceInfo() {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			t.Fatal(err)
		}
		of := found.(protoreflect.ServiceDescriptor).Methods()
		for i := range of.Len() {
			all = append(all, of.Get(i))
		}
	}
	slices.SortFunc(all, func(a, b protoreflect.MethodDescriptor) int {
		return strings.Compare(string(a.FullName()), string(b.FullName()))
	})
	return all
}

// codeless errors have no code in etcd either.
var codeless = []string{errMissingLeaderKey.Error(), errNoElected.Error(), errNotLeader.Error(), errSessionExpired.Error()}

// FuzzCall sends a message made of bytes to any method, over a connection. The
// pod must go on, and say what is wrong by a code that tells clients what to do.
func FuzzCall(f *testing.F) {
	all := methods(f)
	for i := range all {
		f.Add(byte(i), []byte{})
		f.Add(byte(i), []byte{0x0a, 1, 'a', 0x10, 1, 0x18, 1})
	}
	create := &pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte{0}, StartRevision: 1, PrevKv: true, Fragment: true}
	watch, err := proto.Marshal(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}})
	if err != nil {
		f.Fatal(err)
	}
	at := slices.IndexFunc(all, func(m protoreflect.MethodDescriptor) bool { return m.FullName() == "etcdserverpb.Watch.Watch" })
	f.Add(byte(at), watch)
	s := newSolo(f)
	f.Fuzz(func(t *testing.T, method byte, encoded []byte) {
		m := all[int(method)%len(all)]
		req := dynamicpb.NewMessage(m.Input())
		if proto.Unmarshal(encoded, req) != nil {
			return
		}
		err := converse(s.conn, m, req)
		vague := []codes.Code{codes.Internal, codes.Unknown, codes.DataLoss}
		if slices.Contains(vague, status.Code(err)) && !slices.Contains(codeless, status.Convert(err).Message()) {
			t.Errorf("%s: %v: %v", m.FullName(), req, err)
		}
	})
}

// converse sends one message, and hears what comes within a moment: some methods
// wait for what nobody does.
func converse(conn *grpc.ClientConn, m protoreflect.MethodDescriptor, req proto.Message) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	path := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	desc := &grpc.StreamDesc{StreamName: string(m.Name()), ClientStreams: true, ServerStreams: true}
	stream, err := conn.NewStream(ctx, desc, path)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		err := stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
