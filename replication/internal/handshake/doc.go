// Package handshake is the first exchange on every connection between pods:
// each side says who it is, and whom it takes the other for, before a byte of
// anything else is read.
//
// A message is a frame: 7 bytes of magic, the protocol's version, the type,
// the body's length in two bytes, the body: strings with their lengths.
package handshake
