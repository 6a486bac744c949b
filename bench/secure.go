package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/test/cluster"
)

// With -secure, callers speak TLS and log in: a user whose role may read and write
// every key that begins with "b", as those of the benchmark do. So the rights are
// looked at for each call. Between etcd's members there is TLS as well, as between
// Baton's pods in any case.
const (
	benchUser, benchPassword = "bench", "secret"
	rightsKey, rightsEnd     = "b", "c"
)

// secureMeasurements are those that -secure has: in the others pods start again, and
// etcd forgets its tokens then.
var secureMeasurements = []string{"put", "batch", "read", "api"}

// security is how callers prove who they are; the zero value: they do not.
type security struct {
	dir   string // Of certificates, which are the same for all.
	tls   *tls.Config
	token token
}

// token is sent with each call.
type token string

func (t token) RequireTransportSecurity() bool { return true }

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"token": string(t)}, nil
}

func newSecurity(dir string) (security, error) {
	s := security{dir: filepath.Join(dir, "clients")}
	now := time.Now()
	ca, err := pki.NewCA("bench", now, 24*time.Hour)
	if err != nil {
		return s, err
	}
	pair, err := ca.Issue(pki.Request{Names: []string{"127.0.0.1"}, Now: now, Life: 24 * time.Hour, Server: true, Client: true})
	if err != nil {
		return s, err
	}
	s.tls = &tls.Config{RootCAs: x509.NewCertPool()}
	s.tls.RootCAs.AddCert(ca.Certificate)
	return s, pki.WriteFiles(s.dir, pair, pki.EncodeCertificates(ca.Certificate))
}

// environment tells pods of either system where the certificates are.
func (s security) environment() []string {
	if s.tls == nil {
		return nil
	}
	certificate, key, ca := s.file(pki.FileCertificate), s.file(pki.FileKey), s.file(pki.FileCA)
	return []string{
		"BATON_CLIENT_CERTS=" + s.dir,
		"ETCD_CERT_FILE=" + certificate, "ETCD_KEY_FILE=" + key,
		"ETCD_PEER_CERT_FILE=" + certificate, "ETCD_PEER_KEY_FILE=" + key,
		"ETCD_PEER_TRUSTED_CA_FILE=" + ca, "ETCD_PEER_CLIENT_CERT_AUTH=true",
	}
}

// options are for a connection.
func (s security) options() []grpc.DialOption {
	if s.token == "" {
		return nil
	}
	return []grpc.DialOption{grpc.WithPerRPCCredentials(s.token)}
}

// file is one of the certificates' files.
func (s security) file(name string) string { return filepath.Join(s.dir, name) }

// logIn makes the users, through etcd's API on both systems, turns access control on
// and logs in.
func (c *Cluster) logIn(ctx context.Context) error {
	conn, err := cluster.DialTLS(c.Pods[0].Client, c.security.tls)
	if err != nil {
		return err
	}
	defer conn.Close()
	auth := pb.NewAuthClient(conn)
	for _, user := range []string{"root", benchUser} {
		_, add := auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: user, Password: benchPassword})
		_, role := auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: user})
		_, grant := auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: user, Role: user})
		if err := errors.Join(add, role, grant); err != nil {
			return fmt.Errorf("the user %s: %w", user, err)
		}
	}
	rights := &authpb.Permission{PermType: authpb.Permission_READWRITE, Key: []byte(rightsKey), RangeEnd: []byte(rightsEnd)}
	if _, err := auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: benchUser, Perm: rights}); err != nil {
		return err
	}
	if _, err := auth.AuthEnable(ctx, &pb.AuthEnableRequest{}); err != nil {
		return err
	}
	answer, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: benchUser, Password: benchPassword})
	c.security.token = token(answer.GetToken())
	return err
}
