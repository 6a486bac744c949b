// Package security attacks kvd's processes, over loopback, and measures what others
// notice of it. It is all in the tests: make test-security.
package security
