package e2e

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/batondb/baton/client"
)

// dialer finds names where the cluster's pods would.
func dialer() func(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{}
	if *dnsServer != "" {
		d.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, *dnsServer)
		}}
	}
	return func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
}

// newClient is a Go client that was told one address.
func newClient(address string) (*client.Client, error) {
	return client.New(client.Options{
		Endpoints:   []string{address},
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(dialer())},
	})
}

// connect is a bare connection to one pod, for what the client does not do: to
// ask this pod and no other.
func connect(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer()), grpc.WithNoProxy(),
		// A pod that comes back is used again soon.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: poll, Multiplier: 1.5, MaxDelay: 5 * poll},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.WaitForReady(true)))
}
