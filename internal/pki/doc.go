// Package pki makes, reads and checks the certificates by which pods and clients
// prove who they are.
//
// Its nouns: a CA issues certificates; a Material is one certificate with its key
// and the CAs to trust, which always fit together; Files is a directory with a
// Material in it, read again when it changes; a Scope is the set of pods that belong
// together, and says which of them a certificate is for.
//
// Keys are ECDSA on P-256: every TLS library and browser takes them, FIPS 140 allows
// them, and Go signs with one in about 20 µs. (Ed25519 is no faster here, and neither
// browsers nor many clients in other languages accept it.) TLS is 1.3 only, without
// session tickets: each handshake checks the certificates of that moment.
package pki
