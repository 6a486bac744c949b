// Package buildinfo says what a binary was built from: what the build stamped, and
// the modules that the Go toolchain noted in it.
package buildinfo
