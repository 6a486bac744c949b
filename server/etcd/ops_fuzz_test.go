package etcd

import (
	"context"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// FuzzOperations sends what bytes decode to as a request of any method of the
// services Maintenance, Cluster and Auth.
func FuzzOperations(f *testing.F) {
	conn := opsPod(f, []byte("database"), 50<<30)
	var methods []protoreflect.MethodDescriptor
	for _, service := range []string{"Maintenance", "Cluster", "Auth"} {
		all := pb.File_rpc_proto.Services().ByName(protoreflect.Name(service)).Methods()
		for i := range all.Len() {
			f.Add(uint8(len(methods)), []byte{8, 1, 16, 2, 24, 1})
			methods = append(methods, all.Get(i))
		}
	}
	f.Fuzz(func(t *testing.T, number uint8, encoded []byte) {
		method := methods[int(number)%len(methods)]
		request := message(t, method.Input())
		if proto.Unmarshal(encoded, request) != nil {
			return
		}
		err := invoke(t.Context(), conn, method, request, message(t, method.Output()))
		if code := status.Code(err); code == codes.Internal || code == codes.Unknown || code == codes.Unavailable {
			t.Errorf("%s of %v: %v", method.Name(), request, err)
		}
	})
}

func message(t *testing.T, descriptor protoreflect.MessageDescriptor) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

func invoke(ctx context.Context, conn *grpc.ClientConn, method protoreflect.MethodDescriptor, request, response proto.Message) error {
	name := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	if !method.IsStreamingServer() {
		return conn.Invoke(ctx, name, request, response)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	if err == nil {
		err = stream.SendMsg(request)
	}
	if err == nil {
		err = stream.RecvMsg(response)
	}
	return err
}
