package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
)

// SectorBytes is the unit of a backup made with etcd's clients: a snapshot
// stream, zeros up to a whole sector, and the SHA-256 of both. They tell by its
// size that it is whole.
const SectorBytes = 512

// readFile copies the database out of a file of this size, which is a snapshot
// stream or a backup made with etcd's clients: the size tells which.
func readFile(w io.Writer, file io.Reader, size int64) error {
	header := make([]byte, snapshotHeader)
	n, err := io.ReadFull(file, header)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	file = io.MultiReader(bytes.NewReader(header[:n]), file)
	stream := streamSize(int64(binary.LittleEndian.Uint64(header[len(snapshotMagic):])))
	sectors := (stream + SectorBytes - 1) / SectorBytes * SectorBytes
	if size != sectors+sha256.Size {
		return readStream(w, file)
	}
	sum := sha256.New()
	summed := io.TeeReader(io.LimitReader(file, sectors), sum)
	if err := readStream(w, io.LimitReader(summed, stream)); err != nil {
		return err
	}
	padding, err := io.ReadAll(summed)
	if err != nil {
		return err
	}
	if len(bytes.Trim(padding, "\x00")) > 0 {
		return corrupt("there is more after the snapshot's end")
	}
	trailer := make([]byte, sha256.Size)
	if _, err := io.ReadFull(file, trailer); err != nil {
		return err
	}
	if !bytes.Equal(trailer, sum.Sum(nil)) {
		return corrupt("the SHA-256 at the end of the backup")
	}
	return nil
}
