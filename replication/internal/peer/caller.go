package peer

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/batondb/baton/replication"
)

// Caller is the member that made a connection.
type Caller struct {
	Member replication.MemberID
	// Proven: a certificate proves its pod. The rest of the id is what it says.
	Proven bool
	// SameCluster: it says that it belongs to this pod's cluster, which has one.
	SameCluster bool
}

// CallerOf is who makes a call to the peer port's gRPC server; false: it came
// some other way.
func CallerOf(ctx context.Context) (Caller, bool) {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(callerInfo); ok {
			return Caller(c), true
		}
	}
	return Caller{}, false
}

// callerInfo is what gRPC carries for a connection.
type callerInfo Caller

// AuthType implements credentials.AuthInfo.
func (callerInfo) AuthType() string { return "baton" }

// greeted tells gRPC who has made a connection: the port has greeted, and secured, it
// already.
type greeted struct{}

func (greeted) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*Conn)
	if !ok {
		return nil, nil, errors.New("the connection did not come through the peer port")
	}
	return c, callerInfo(c.caller), nil
}

func (greeted) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, callerInfo{}, nil
}

func (greeted) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "baton"}
}

func (g greeted) Clone() credentials.TransportCredentials { return g }
func (greeted) OverrideServerName(string) error           { return nil }
