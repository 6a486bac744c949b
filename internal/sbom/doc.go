// Command sbom writes what is in binaries and in a container image, as CycloneDX
// JSON:
//
//	go run ./internal/sbom -version v1 -date 2026-01-02T15:04:05Z -o baton.cdx.json bin/kvd bin/kvctl bin/baton.tar
//
// An image is an archive of internal/image, which holds nothing but binaries; any
// other file in it is an error. What a binary was built from is what the Go
// toolchain has noted in it, so the list is of what is linked, and not of what
// go.mod names. The same input gives the same output.
package main
