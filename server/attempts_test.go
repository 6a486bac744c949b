package server

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/peer"
)

// Whoever tries many passwords at the same time tries no more of them in the long run.
func TestGuessesAtTheSameTime(t *testing.T) {
	now := time.Unix(0, 0)
	a := newAttempts(func() time.Time { return now })
	const together = maxHashing
	tried := 0
	for range 60 {
		begun := 0
		for range together {
			if a.may("alice", "10.0.0.1") {
				begun++
			}
		}
		for range begun {
			a.ended("alice", "10.0.0.1", false)
		}
		tried += begun
		now = now.Add(5 * time.Second)
	}
	if most := int(failuresTogether.burst) + together + 60; tried > most {
		t.Errorf("%d guesses in five minutes, want at most %d", tried, most)
	}
}

// One address leaves others room to have their passwords looked at.
func TestOneAddressHashes(t *testing.T) {
	p := newPasswords()
	from := func(address string) context.Context {
		return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(address), Port: 1}})
	}
	working, release := make(chan struct{}, maxHashing), make(chan struct{})
	ended := make(chan error, 2*maxHashing)
	hash := func(address string) {
		ended <- p.do(from(address), func() { working <- struct{}{}; <-release })
	}
	for range 2 * maxHashing {
		go hash("10.0.0.1")
	}
	for refused := 0; refused < 3*maxHashing/2; refused++ {
		if err := <-ended; err == nil {
			t.Fatal("it did not wait")
		}
	}
	go hash("10.0.0.2")
	close(release)
	for range maxHashing/2 + 1 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if used, _ := p.waiting.Used(); used != 0 {
		t.Errorf("%d wait", used)
	}
}
