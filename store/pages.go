package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"go.etcd.io/bbolt"
)

// pageChecker walks bbolt's pages as they are in the file and believes nothing
// that they say. bbolt does: over a damaged page its own check may fault in a
// goroutine of its own, which would end the process, or count to four billion;
// so this one comes first.
//
// A page: id (8 bytes), flags (2), count (2), overflow (4), elements, and then
// their keys and values. An element of a leaf: flags, place, size of the key,
// size of the value (4 each); of a branch: place, size of the key (4 each),
// page (8). Places count from the element.
type pageChecker struct {
	file  io.ReaderAt
	size  uint64 // Of a page in bytes.
	count uint64 // Of pages in use.
	seen  pageSet

	rootOnly bool  // Looks into a bucket only if it has no page of its own.
	records  bool  // Looks at the checksum of every record.
	walk     *walk // Looks at a part of the file only; nil: at all of it.
}

// pageSet has a bit for each page: 1 MiB for a file of 128 GiB.
type pageSet []byte

func (s pageSet) has(id uint64) bool { return id/8 < uint64(len(s)) && s[id/8]>>(id%8)&1 == 1 }

func (s *pageSet) add(id uint64) {
	if missing := int(id/8) + 1 - len(*s); missing > 0 {
		*s = append(*s, make([]byte, missing)...)
	}
	(*s)[id/8] |= 1 << (id % 8)
}

// maxPageBytes of a page with all that it goes on over: more than any record has, and no
// more than a pod has memory for. The list of free pages has 8 bytes for each.
const maxPageBytes = 64 << 20

const (
	pageHeader   = 16
	pageElement  = 16
	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketFlag   = 0x01
	bucketHeader = 16
	noFreelist   = ^uint64(0)
)

// checkStructure looks at the pages of a transaction. No other may be committed
// meanwhile.
func checkStructure(tx *bbolt.Tx) error { return checkTree(tx, &pageChecker{}) }

// checkRoot looks only at the page that names the buckets, and at where the list
// of free pages begins: cheap enough for every opening.
func checkRoot(tx *bbolt.Tx) error { return checkTree(tx, &pageChecker{rootOnly: true}) }

// checkCopy looks at every page and at the checksum of every record: what comes
// from another pod's disk may have been damaged there, in parts that nobody has
// read since.
func checkCopy(tx *bbolt.Tx) error { return checkTree(tx, &pageChecker{records: true}) }

func checkTree(tx *bbolt.Tx, c *pageChecker) error {
	file, err := os.Open(tx.DB().Path())
	if err != nil {
		return err
	}
	defer file.Close()
	c.file, c.size = file, uint64(tx.DB().Info().PageSize)
	transaction := uint64(tx.ID())
	if tx.Writable() {
		transaction--
	}
	root, freelist, err := c.meta(transaction)
	if err != nil {
		return err
	}
	free, count, err := c.freelist(freelist)
	if err != nil {
		return err
	}
	if c.walk != nil { // What is free must not be found in use.
		if err := c.free(free, count); err != nil {
			return err
		}
		c.walk.read = 0 // It is looked at in every step, and takes no more than time.
	}
	if err := c.tree(root, nil, nil); err != nil || !c.records {
		return err
	}
	return c.free(free, count)
}

// freelist reads the ids of free pages.
func (c *pageChecker) freelist(id uint64) (ids []byte, count uint64, err error) {
	if id == noFreelist {
		return nil, 0, nil
	}
	body, flags, n, err := c.page(id)
	if err != nil || flags != freelistPage {
		return nil, 0, corrupt("page %d of bbolt's free list (%v)", id, err)
	}
	return body[pageHeader:], uint64(n), nil
}

// free looks whether a page that is in use is said to be free: bbolt would
// overwrite it. A large number of pages is the first of their ids.
func (c *pageChecker) free(ids []byte, count uint64) error {
	const large = 0xffff
	if count == large {
		count, ids = binary.LittleEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids))/8 {
		return corrupt("the free list has %d pages", count)
	}
	for ; count > 0; count, ids = count-1, ids[8:] {
		id := binary.LittleEndian.Uint64(ids)
		if id < 2 || id >= c.count || c.seen.has(id) {
			return corrupt("page %d is in the free list", id)
		}
		c.seen.add(id)
	}
	return nil
}

// errNoMeta is damage, unless the file is written meanwhile.
var errNoMeta = fmt.Errorf("%w: no first page is of transaction", ErrCorrupt)

// meta reads the two pages that begin a file, and takes the transaction's. They
// have checksums, which bbolt has verified.
func (c *pageChecker) meta(transaction uint64) (root, freelist uint64, err error) {
	const rootAt, freelistAt, countAt, transactionAt, sumAt = 32, 48, 56, 64, 72
	for i := range int64(2) {
		page := make([]byte, sumAt+8)
		if _, err := c.file.ReadAt(page, i*int64(c.size)); err != nil {
			return 0, 0, err
		}
		sum := fnv.New64a()
		_, _ = sum.Write(page[pageHeader:sumAt]) // Never fails.
		// The page may be read while it is written for a later transaction.
		if binary.LittleEndian.Uint64(page[transactionAt:]) == transaction && binary.LittleEndian.Uint64(page[sumAt:]) == sum.Sum64() {
			c.count = binary.LittleEndian.Uint64(page[countAt:])
			return binary.LittleEndian.Uint64(page[rootAt:]), binary.LittleEndian.Uint64(page[freelistAt:]), nil
		}
	}
	return 0, 0, fmt.Errorf("%w %d", errNoMeta, transaction)
}

// page reads a page with all that it goes on over.
func (c *pageChecker) page(id uint64) (body []byte, flags, count uint16, err error) {
	if id < 2 || id >= c.count || c.seen.has(id) {
		return nil, 0, 0, corrupt("page %d is out of place", id)
	}
	header := make([]byte, pageHeader)
	if _, err := c.file.ReadAt(header, int64(id*c.size)); err != nil {
		return nil, 0, 0, corrupt("page %d: %v", id, err)
	}
	overflow := uint64(binary.LittleEndian.Uint32(header[12:]))
	if binary.LittleEndian.Uint64(header) != id || id+overflow >= c.count || overflow*c.size > max(maxPageBytes, 8*c.count) {
		return nil, 0, 0, corrupt("the header of page %d", id)
	}
	for page := id; page <= id+overflow; page++ {
		if c.seen.has(page) {
			return nil, 0, 0, corrupt("page %d is used twice", page)
		}
		c.seen.add(page)
	}
	body = make([]byte, (overflow+1)*c.size)
	c.walk.count(len(body))
	if _, err := c.file.ReadAt(body, int64(id*c.size)); err != nil {
		return nil, 0, 0, corrupt("page %d: %v", id, err)
	}
	return body, binary.LittleEndian.Uint16(header[8:]), binary.LittleEndian.Uint16(header[10:]), nil
}

// tree walks a page and what is under it; keys are from low (nil: any) on and
// before high (nil: any).
func (c *pageChecker) tree(id uint64, low, high []byte) error {
	body, flags, count, err := c.page(id)
	if err != nil {
		return err
	}
	switch {
	case flags == leafPage:
		return c.leaf(id, body, count, low, high)
	case flags == branchPage && count > 0:
		return c.branch(id, body, count, low, high)
	}
	return corrupt("page %d is of kind %x with %d elements", id, flags, count)
}

// piece cuts out n bytes at a place, when they are there.
func piece(body []byte, at, n uint64) ([]byte, bool) {
	if at+n > uint64(len(body)) {
		return nil, false
	}
	return body[at : at+n], true
}

// ordered is true of a key that comes after the one before it, in bounds.
func ordered(key, before, low, high []byte, first bool) bool {
	return (first || bytes.Compare(key, before) > 0) && bytes.Compare(key, low) >= 0 && (high == nil || bytes.Compare(key, high) < 0)
}

func (c *pageChecker) branch(id uint64, body []byte, count uint16, low, high []byte) error {
	keys, pages := make([][]byte, count), make([]uint64, count)
	for i := range keys {
		at := uint64(pageHeader + i*pageElement)
		element, ok := piece(body, at, pageElement)
		if !ok {
			return corrupt("page %d has %d elements", id, count)
		}
		place, size := binary.LittleEndian.Uint32(element), binary.LittleEndian.Uint32(element[4:])
		keys[i], ok = piece(body, at+uint64(place), uint64(size))
		if !ok || !ordered(keys[i], keys[max(0, i-1)], low, high, i == 0) {
			return corrupt("element %d of page %d", i, id)
		}
		pages[i] = binary.LittleEndian.Uint64(element[8:])
	}
	for i, page := range pages {
		end := high
		if i+1 < len(keys) {
			end = keys[i+1]
		}
		if c.walk.passed(end) {
			continue
		}
		if err := c.tree(page, keys[i], end); err != nil {
			return err
		}
	}
	return nil
}

func (c *pageChecker) leaf(id uint64, body []byte, count uint16, low, high []byte) error {
	var before []byte
	for i := range int(count) {
		at := uint64(pageHeader + i*pageElement)
		element, ok := piece(body, at, pageElement)
		if !ok {
			return corrupt("page %d has %d elements", id, count)
		}
		place := at + uint64(binary.LittleEndian.Uint32(element[4:]))
		size := uint64(binary.LittleEndian.Uint32(element[8:]))
		key, ok := piece(body, place, size)
		if !ok || !ordered(key, before, low, high, i == 0) {
			return corrupt("element %d of page %d", i, id)
		}
		value, ok := piece(body, place+size, uint64(binary.LittleEndian.Uint32(element[12:])))
		if !ok {
			return corrupt("the value of element %d of page %d", i, id)
		}
		if binary.LittleEndian.Uint32(element)&bucketFlag != 0 {
			if err := c.bucket(id, key, value); err != nil {
				return err
			}
		} else if err := c.record(id, i, key, value); err != nil {
			return err
		}
		before = key
	}
	return nil
}

func (c *pageChecker) record(id uint64, element int, key, value []byte) (err error) {
	switch {
	case c.walk != nil:
		if err = c.walk.record(key, value); errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("%w (page %d, element %d)", err, id, element)
		}
	case c.records:
		_, err = unseal(key, value)
	}
	return err
}

// bucket is the value of a bucket: its root page, or 0 and a small page in place.
func (c *pageChecker) bucket(id uint64, name, value []byte) error {
	if len(value) < bucketHeader {
		return corrupt("a bucket in page %d", id)
	}
	if c.walk != nil {
		return c.walk.bucket(name, func() error { return c.inBucket(id, value) })
	}
	return c.inBucket(id, value)
}

func (c *pageChecker) inBucket(id uint64, value []byte) error {
	if root := binary.LittleEndian.Uint64(value); root != 0 {
		if c.rootOnly {
			return nil
		}
		return c.tree(root, nil, nil)
	}
	body := value[bucketHeader:]
	if len(body) < pageHeader || binary.LittleEndian.Uint16(body[8:]) != leafPage {
		return corrupt("a small bucket in page %d", id)
	}
	return c.leaf(id, body, binary.LittleEndian.Uint16(body[10:]), nil, nil)
}
