// Command image packs static binaries into a container image, without a
// container engine, and byte for byte the same each time: what "docker load",
// "kind load image-archive" and "ctr images import" take.
//
//	go run ./internal/image -tag baton:latest -arch amd64 -date 2026-01-02T15:04:05Z -o baton.tar kvd kvctl
//
// It prints the image's digest and size. It does by hand what the last stage of
// the Dockerfile does: one layer with the binaries in /usr/local/bin, and a user
// that is not root.
package main
