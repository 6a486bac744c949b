package inbound

import (
	"golang.org/x/net/http2"
)

const (
	// earnedByFrame is how many pings and window updates a frame of an answer pays for:
	// clients send one ping for what arrives together, and a window update each for
	// the call and the connection, not after every frame.
	earnedByFrame = 2
	// mostEarned of them are kept for later, and firstEarned are for the beginning.
	mostEarned  = 1024
	firstEarned = 64
)

// pay pays for a ping or a window update with what was earned by answers. Only the
// goroutine that reads calls it.
func (c *conn) pay() bool {
	if c.earned.Load() <= 0 {
		return false
	}
	c.earned.Add(-1)
	return true
}

// answer is called with the header of each frame that gRPC writes, by one goroutine.
func (c *conn) answer(header []byte) {
	kind, flags := http2.FrameType(header[3]), http2.Flags(header[4])
	switch {
	case kind == http2.FrameHeaders && flags.Has(http2.FlagHeadersEndStream), kind == http2.FrameRSTStream:
		c.streams.end(streamOf(header))
	case kind != http2.FrameData:
		return
	}
	if c.earned.Load() < mostEarned {
		c.earned.Add(earnedByFrame)
	}
}
