package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// TLSFiles are files in the PEM format, as Kubernetes and cert-manager mount them:
// ca.crt, tls.crt and tls.key. They are read again for every connection, so that
// what is renewed is used without a restart. An empty TLSFiles is no TLS.
type TLSFiles struct {
	// CA has the certificates of whom to believe about the pods; empty: whom the
	// machine believes.
	CA string
	// Cert and Key are this client's own, with the intermediate certificates in
	// Cert; both empty: the client shows none.
	Cert, Key string
	// ServerName is what every pod's certificate must be for; empty: the host of the
	// address that is connected to. The addresses of the pods that Baton itself
	// tells are those of --service or --peers: kv-0.kv.NAMESPACE.svc.cluster.local
	// and so on in Kubernetes.
	ServerName string
}

func (f TLSFiles) given() bool { return f != TLSFiles{} }

// load reads the files.
func (f TLSFiles) load() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13, ServerName: f.ServerName}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in it: it must be PEM, CERTIFICATE", f.CA)
		}
	}
	if f.Cert != "" || f.Key != "" {
		if f.Cert == "" || f.Key == "" {
			return nil, errors.New("a client certificate needs its key, and a key its certificate: give both")
		}
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("%s and %s: %w", f.Cert, f.Key, err)
		}
		// Not Certificates: of those Go shows only what the server's CAs issued, and
		// the server could not say why it refuses.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return config, nil
}

// fileCredentials are TLS that reads its files for each handshake.
type fileCredentials struct {
	credentials.TransportCredentials
	files TLSFiles
}

func newFileCredentials(files TLSFiles) (credentials.TransportCredentials, error) {
	config, err := files.load()
	if err != nil {
		return nil, err
	}
	return fileCredentials{credentials.NewTLS(config), files}, nil
}

func (c fileCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := c.files.load()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

func (c fileCredentials) Clone() credentials.TransportCredentials {
	return fileCredentials{c.TransportCredentials.Clone(), c.files}
}

// secure is how connections are secured, and what proves who this client is.
type secure struct {
	transport credentials.TransportCredentials
	token     *tokenFile // nil: none is sent
	login     *login     // nil: there is no user
}

func newSecure(o Options) (s secure, err error) {
	s.transport = insecure.NewCredentials()
	switch {
	case o.TLS != nil && o.Files.given():
		return s, invalid("Options.TLS and Options.Files are both given: choose one")
	case o.TLS != nil:
		s.transport = credentials.NewTLS(o.TLS)
	case o.Files.given():
		if s.transport, err = newFileCredentials(o.Files); err != nil {
			return s, invalid("Options.Files: %v", err)
		}
	}
	switch {
	case o.User != "" && o.TokenFile != "":
		return s, invalid("Options.User and Options.TokenFile are both given: choose one")
	case o.User == "" && o.Password != "":
		return s, invalid("Options.Password is given without a User")
	case o.User != "" && o.Password == "":
		return s, invalid("Options.User is given without a Password")
	}
	if o.TokenFile != "" {
		s.token = &tokenFile{path: o.TokenFile}
		if _, err := s.token.get(); err != nil {
			return s, invalid("Options.TokenFile: %v", err)
		}
	}
	return s, nil
}

// to is for connections to one address.
func (s secure) to(address string) []grpc.DialOption {
	options := []grpc.DialOption{grpc.WithTransportCredentials(s.transport)}
	if s.token != nil {
		options = append(options, grpc.WithPerRPCCredentials(bearer{s.token, loopback(address)}), grpc.WithChainStreamInterceptor(s.token.stream))
	}
	if s.login != nil {
		secured := s.transport.Info().SecurityProtocol == "tls"
		options = append(options, s.login.options(secured || loopback(address))...)
	}
	return options
}

// tokenAge is how old a token may be before its file is read again: Kubernetes
// writes a new one when a fifth of the old one's time is left, at least two minutes.
const tokenAge = 10 * time.Second

// tokenFile sends a file's token with each call.
type tokenFile struct {
	path string

	mu    sync.Mutex // guards the fields below
	token string
	read  time.Time
}

// bearer is a tokenFile for calls to one address.
type bearer struct {
	file *tokenFile
	// local: the address is this machine's, where nobody listens on the way.
	local bool
}

func (b bearer) RequireTransportSecurity() bool { return !b.local }

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := b.file.get()
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (t *tokenFile) get() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != "" && time.Since(t.read) < tokenAge {
		return t.token, nil
	}
	text, err := os.ReadFile(t.path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("%s is empty: it should hold a token", t.path)
	}
	t.token, t.read = token, time.Now()
	return token, nil
}

// stream implements grpc.StreamClientInterceptor: a stream whose token has ended is begun
// again if the file has another one by then.
func (t *tokenFile) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	token, err := t.get()
	if err != nil {
		return nil, err
	}
	stream, err := open(ctx, desc, conn, method, options...)
	if err != nil {
		return nil, err
	}
	return &proved{stream, func(err error) bool { return wantsToken(err) && t.replaced(token) }}, nil
}

// replaced says whether the file has another token now.
func (t *tokenFile) replaced(token string) bool {
	t.mu.Lock()
	t.read = time.Time{}
	t.mu.Unlock()
	now, err := t.get()
	return err == nil && now != token
}

// loopback says that an address is this machine's own.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
