// Package caller says who makes a call: what a certificate, a token or a password
// proved, carried in the context of the call.
package caller
