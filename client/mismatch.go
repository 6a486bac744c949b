package client

import "strings"

// TLSProblem says, in the metadata "tls" of an [Error], why two sides that can reach
// each other cannot talk. It may pass, when a certificate is being renewed for
// example, so the client goes on trying until the context ends.
const (
	// ServerIsPlain: this client speaks TLS, and the server does not.
	ServerIsPlain = "server is plain"
	// ServerWantsTLS: it is the other way round, most likely: the server ended the
	// connection before it said anything.
	ServerWantsTLS = "server wants TLS"
	// OtherName: the server's certificate is for other names than the address.
	OtherName = "other name"
	// UnknownCA: the server's certificate is of a CA that this client does not
	// believe.
	UnknownCA = "unknown CA"
	// ServerExpired: the server's certificate has expired or is not valid yet.
	ServerExpired = "server certificate expired"
	// ClientRefused: the server does not accept this client's certificate: it has
	// expired, is of another CA, or is missing.
	ClientRefused = "client certificate refused"
)

// mismatches are what TLS and gRPC say, for want of errors that can be told apart
// once they have passed through a connection's state.
var mismatches = []struct{ text, problem, means string }{
	{"first record does not look like a TLS handshake", ServerIsPlain, "the server does not speak TLS"},
	{"remote error: tls: expired certificate", ClientRefused, "the server says that this client's certificate has expired"},
	{"remote error: tls: certificate required", ClientRefused, "the server asks for a client certificate"},
	{"remote error: tls: unknown certificate authority", ClientRefused, "the server does not know the CA of this client's certificate"},
	{"remote error: tls: bad certificate", ClientRefused, "the server does not accept this client's certificate"},
	{"x509: certificate signed by unknown authority", UnknownCA, "the server's certificate is not of the CA that this client was given"},
	{"x509: certificate has expired or is not yet valid", ServerExpired, "the server's certificate is not valid now"},
	{"x509: certificate is valid for", OtherName, "the server's certificate is for another name"},
	{"x509: certificate is not valid for any names", OtherName, "the server's certificate is for another name"},
	{"x509: cannot validate certificate for", OtherName, "the server's certificate is for another name"},
	// Last: a server also says nothing when it stops.
	{"error reading server preface", ServerWantsTLS, "it ended the connection at once, as a server that wants TLS does"},
}

// explainTLS puts what a person needs before what the libraries said.
func (e *Error) explainTLS(why string) {
	for _, m := range mismatches {
		if !strings.Contains(why, m.text) {
			continue
		}
		before, detail, _ := strings.Cut(e.Message, why)
		e.Message = before + m.means + " (" + why + ")" + detail
		e.Metadata["tls"] = m.problem
		return
	}
}

// undialed is why gRPC refuses an address before anything is sent.
func undialed(err error) string {
	if strings.Contains(err.Error(), "credentials require transport level security") {
		return "without TLS the token could be read on the way: give TLS or Files, or connect over loopback"
	}
	return err.Error()
}
