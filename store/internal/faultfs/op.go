package faultfs

import (
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Kind is what an operation did.
type Kind int

// The kinds of operations. Mark is not one of the file system's: see FS.Mark.
const (
	Create Kind = iota
	Write
	Truncate
	Sync
	Rename
	Remove
	SyncDir
	Mark
)

// Op is one operation of the record.
type Op struct {
	Kind     Kind
	Path, To string
	Offset   int64 // Or the size, or the mark.
	Data     []byte
}

// readOps reads a record.
func readOps(path string) (ops []Op, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	decoder := gob.NewDecoder(file)
	for {
		var op Op
		switch err := decoder.Decode(&op); {
		case errors.Is(err, io.EOF):
			return ops, nil
		case err != nil:
			return nil, err
		}
		ops = append(ops, op)
	}
}

// inode is a file: what is surely on the disk, and what may be.
type inode struct {
	content []byte // Zeros at the end left out.
	size    int64
	pending []Op
}

// apply does an operation; of a write only the first bytes.
func (n *inode) apply(op Op, bytes int) {
	switch op.Kind {
	case Write:
		end := int(op.Offset) + bytes
		if end > len(n.content) {
			n.content = append(n.content, make([]byte, end-len(n.content))...)
		}
		copy(n.content[op.Offset:], op.Data[:bytes])
		n.size = max(n.size, int64(end))
	case Truncate:
		n.content = n.content[:min(op.Offset, int64(len(n.content)))]
		n.size = op.Offset
	}
}

func (n *inode) sync() {
	for _, op := range n.pending {
		n.apply(op, len(op.Data))
	}
	n.pending = nil
}

// sector is what a disk writes whole.
const sector = 512

// crash keeps each operation since the last sync or not; the last one that is
// kept may be torn.
func (n *inode) crash(r *rand.Rand) {
	odds := r.IntN(5) // From none to all.
	var kept []Op
	for _, op := range n.pending {
		if r.IntN(4) < odds {
			kept = append(kept, op)
		}
	}
	for i, op := range kept {
		bytes := len(op.Data)
		if i == len(kept)-1 && bytes > 0 && r.IntN(2) == 0 {
			bytes = r.IntN(bytes+1) / sector * sector
		}
		n.apply(op, bytes)
	}
	n.pending = nil
}

// disk replays a record.
type disk struct {
	names   map[string]*inode // As processes see them.
	durable map[string]*inode
	pending []nameChange // Since the last sync of the directory.
}

// nameChange is the creation, renaming or removal of a file.
type nameChange struct {
	op   Op
	file *inode
}

func (c nameChange) apply(names map[string]*inode) {
	if c.op.Kind != Create {
		delete(names, c.op.Path)
	}
	switch c.op.Kind {
	case Create:
		names[c.op.Path] = c.file
	case Rename:
		names[c.op.To] = c.file
	}
}

func (d *disk) do(op Op) error {
	file := d.names[op.Path]
	switch op.Kind {
	case SyncDir:
		d.durable, d.pending = maps.Clone(d.names), nil
		return nil
	case Mark:
		return nil
	case Create:
		if file != nil {
			return nil
		}
		file = &inode{}
	}
	if file == nil {
		return fmt.Errorf("faultfs: operation %d on unknown file %s", op.Kind, op.Path)
	}
	switch op.Kind {
	case Write, Truncate:
		file.pending = append(file.pending, op)
	case Sync:
		file.sync()
	default:
		c := nameChange{op: op, file: file}
		c.apply(d.names)
		d.pending = append(d.pending, c)
	}
	return nil
}

// Crash writes into dir what the disk may hold when the machine stops after
// ops. Changes of names reach the disk in order, those of data in any.
func Crash(ops []Op, r *rand.Rand, dir string) error {
	d := &disk{names: map[string]*inode{}, durable: map[string]*inode{}}
	for _, op := range ops {
		if err := d.do(op); err != nil {
			return err
		}
	}
	for _, c := range d.pending[:r.IntN(len(d.pending)+1)] {
		c.apply(d.durable)
	}
	for _, path := range slices.Sorted(maps.Keys(d.durable)) {
		file := d.durable[path]
		file.crash(r)
		path = filepath.Join(dir, path)
		if err := os.WriteFile(path, file.content, 0o600); err != nil {
			return err
		}
		if err := os.Truncate(path, file.size); err != nil {
			return err
		}
	}
	return nil
}
