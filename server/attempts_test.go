package server

import (
	"context"
	"fmt"
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

// What guessing costs whom, by a clock of the test's.
func TestAttempts(t *testing.T) {
	now := time.Now()
	a := newAttempts(func() time.Time { return now })
	fail := func(user, address string, times int) (allowed int) {
		for range times {
			if a.may(user, address) {
				a.ended(user, address, false)
				allowed++
			}
		}
		return allowed
	}
	if got := fail("alice", "1", 50); got != 10 {
		t.Errorf("%d guesses from one address, want 10", got)
	}
	if !a.may("bob", "1") || !a.may("alice", "2") {
		t.Error("others, or elsewhere, are refused as well")
	}
	now = now.Add(failuresTogether.every)
	if got := fail("alice", "1", 50); got != 1 {
		t.Errorf("%d guesses a moment later, want 1", got)
	}
	a.ended("alice", "home", true)
	for i := range 100 {
		fail("alice", fmt.Sprint("botnet", i), 10)
	}
	if a.may("alice", "elsewhere") {
		t.Error("guessing from everywhere goes on")
	}
	if !a.may("alice", "home") {
		t.Error("the user is shut out of where it has logged in")
	}
	a.ended("dave", "spray", true) // Behind the same NAT.
	for i := range 20 {
		fail(fmt.Sprint("user", i), "spray", 10)
	}
	if a.may("carol", "spray") {
		t.Error("one address goes on trying users")
	}
	if !a.may("dave", "spray") {
		t.Error("a user is shut out for what others behind its address do")
	}
	if got := fail("dave", "spray", 50); got != 10 {
		t.Errorf("%d guesses at a user from where it has logged in, want 10", got)
	}
	for i := range 3 * maxAttempts {
		a.ended(fmt.Sprint("u", i), fmt.Sprint("a", i), false)
		if len(a.left) > maxAttempts+3 {
			t.Fatalf("%d entries", len(a.left))
		}
	}
}
