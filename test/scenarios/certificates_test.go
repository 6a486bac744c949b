//go:build linux

package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/batondb/baton/internal/pki"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
	"github.com/batondb/baton/test/cluster"
	"github.com/batondb/baton/test/history"
)

// authorities issue for the pods of a set. Each certificate ends at a time of its own,
// by which it is known again.
type authorities struct {
	s      *set
	issued time.Duration
	life   time.Duration // Of the certificates to come, at least; 0: a day.
}

func (a *authorities) ca(name string) *pki.CA {
	a.s.t.Helper()
	ca, err := pki.NewCA(name, time.Now(), 1000*time.Hour)
	if err != nil {
		a.s.t.Fatal(err)
	}
	return ca
}

// certify writes a pod's certificates, and returns when the new one ends.
func (a *authorities) certify(p *cluster.Pod, from *pki.CA, trusted ...*pki.CA) time.Time {
	a.s.t.Helper()
	a.issued += time.Hour
	life := a.life
	if life == 0 {
		life = 24*time.Hour + a.issued
	}
	pair, err := from.Issue(pki.Request{Names: []string{p.Name}, Now: time.Now(), Life: life, Server: true, Client: true})
	if err != nil {
		a.s.t.Fatal(err)
	}
	var bundle []byte
	for _, ca := range trusted {
		bundle = append(bundle, pki.EncodeCertificates(ca.Certificate)...)
	}
	leaf, err := pki.ParseCertificates(pair.Certificate)
	if err = errors.Join(err, pki.WriteFiles(p.Certs, pair, bundle)); err != nil {
		a.s.t.Fatal(err)
	}
	return leaf[0].NotAfter
}

// rotate gives all pods new certificates, and returns when all of them use them.
func (a *authorities) rotate(from *pki.CA, trusted ...*pki.CA) {
	a.s.t.Helper()
	for _, p := range a.s.pods {
		ends := a.certify(p.Pod, from, trusted...)
		a.s.eventually(p.Name+" uses its new certificate", whole, func() error {
			text, _, err := p.Get(context.Background(), "/readyz?verbose")
			want := fmt.Sprintf("peer certificate: ends %s, issued by %q; CAs trusted: %d,",
				ends.UTC().Format(time.RFC3339), from.Certificate.Subject.CommonName, len(trusted))
			if err == nil && !strings.Contains(text, want) {
				err = fmt.Errorf("%q is not in %s", want, text)
			}
			return err
		})
	}
}

// strict writers repeat nothing: a write that is lost on its way is an error here.
func (s *set) strict() (stop func() (writes int, errs []error)) {
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	var mu sync.Mutex // guards writes and errs
	var writes int
	var errs []error
	for o, p := range s.pods {
		tasks.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key, value := "strict/"+p.Name, fmt.Sprintf("strict-%s-%d", p.Name, n)
				op := &history.Op{Client: writers + readers + o, Name: "put", Writes: []history.Write{{Key: key, Value: value}}}
				err := s.load.record(op, func(ctx context.Context) (history.Answer, error) {
					r, err := kvv1.NewKVServiceClient(p.Conn()).Put(ctx, &kvv1.PutRequest{Key: []byte(key), Value: []byte(value)})
					return history.NewAnswer(r.GetHeader()), err
				})
				mu.Lock()
				if writes++; err != nil {
					errs = append(errs, fmt.Errorf("by %s: %w", p.Name, err))
				}
				mu.Unlock()
				time.Sleep(pace)
			}
		})
	}
	return func() (int, []error) {
		cancel()
		tasks.Wait()
		return writes, errs
	}
}

// S27: leaf and CA are swapped under load: first both CAs are trusted, then the
// certificates are the new CA's, then the old one counts no more.
func TestS27CertificatesRotate(t *testing.T) {
	t.Parallel()
	s := newSet(t, "here", 0, 3)
	a := &authorities{s: s}
	older, newer := a.ca("older"), a.ca("newer")
	dir := t.TempDir()
	s.certify = func(p *cluster.Pod) {
		p.Certs = filepath.Join(dir, p.Name)
		a.certify(p, older, older)
	}
	s.start(0, 1, 2)
	s.awaitWhole(0, 1, 2)
	s.startLoad()
	stop := s.strict()
	for _, step := range []struct {
		what    string
		from    *pki.CA
		trusted []*pki.CA
	}{
		{"another certificate of the same CA", older, []*pki.CA{older}},
		{"both CAs are trusted", older, []*pki.CA{newer, older}},
		{"certificates of the new CA", newer, []*pki.CA{newer, older}},
		{"the old CA is trusted no more", newer, []*pki.CA{newer}},
	} {
		gap := s.load.during(step.what, func() {
			a.rotate(step.from, step.trusted...)
			time.Sleep(4 * time.Second) // what is no longer trusted is closed within 3 s
		})
		if gap > time.Second {
			t.Errorf("%s: a gap of %v", step.what, gap)
		}
	}
	writes, errs := stop()
	t.Logf("%d writes without repetition", writes)
	for _, err := range errs[:min(len(errs), 5)] {
		t.Error(err)
	}
	// Not even kv-0 itself is let in with what the old CA has issued.
	for _, p := range s.pods {
		if err := callWith(older, p.Peer, newer); err == nil {
			t.Errorf("%s lets the old CA in", p.Name)
		}
		if err := callWith(newer, p.Peer, newer); err != nil {
			t.Errorf("%s does not let the new CA in: %v", p.Name, err)
		}
	}
	s.verify(0, 1, 2)
}

// S27: the certificates that connections began with end, after they were renewed one by one:
// each pod still has connections to another one's old certificate by then.
func TestS27CertificatesEnd(t *testing.T) {
	t.Parallel()
	s := newSet(t, "here", 0, 3)
	a := &authorities{s: s, life: 50 * time.Second}
	ca := a.ca("ca")
	dir, ends := t.TempDir(), time.Time{}
	s.certify = func(p *cluster.Pod) {
		p.Certs = filepath.Join(dir, p.Name)
		ends = a.certify(p, ca, ca)
	}
	s.start(0, 1, 2)
	s.awaitWhole(0, 1, 2)
	a.life = 0
	a.rotate(ca, ca)
	s.startLoad()
	stop := s.strict()
	if left := time.Until(ends); left < time.Second {
		t.Skipf("the machine is too slow: the first certificates have ended, or do in %s", left)
	}
	gap := s.load.during("the first certificates end", func() {
		time.Sleep(time.Until(ends.Add(6 * time.Second))) // What has ended is closed within 3 s.
	})
	if gap > time.Second {
		t.Errorf("a gap of %v", gap)
	}
	writes, errs := stop()
	t.Logf("%d writes without repetition", writes)
	for _, err := range errs[:min(len(errs), 5)] {
		t.Error(err)
	}
	closed := 0
	for _, p := range s.pods {
		closed += strings.Count(p.Printed(), "the certificate that it began with has ended")
		if strings.Contains(p.Printed(), "a peer connection was refused") {
			t.Errorf("%s refused somebody: %s", p.Name, p.Printed())
		}
	}
	if closed == 0 {
		t.Error("no connection is closed whose certificates have ended")
	}
	s.verify(0, 1, 2)
}

// S27: a person empties the Secret with the CA that the pods have made: they make the
// next one, and trust both.
func TestS27CAOfThePods(t *testing.T) {
	t.Parallel()
	s := newCluster(t, 3)
	s.startLoad()
	stop := s.strict()
	s.api.emptySecret()
	for _, p := range s.pods {
		s.eventually(p.Name+" trusts the next CA as well", 2*whole, func() error {
			if !strings.Contains(p.Printed(), "cas=2") {
				return errors.New("it does not say so")
			}
			return nil
		})
	}
	time.Sleep(4 * time.Second) // what is no longer trusted would be closed within 3 s
	_, errs := stop()
	for _, err := range errs[:min(len(errs), 5)] {
		t.Error(err)
	}
	for _, p := range s.pods {
		if text := p.Printed(); strings.Contains(text, "untrusted") {
			t.Errorf("%s refused somebody: %s", p.Name, text)
		}
	}
	s.verify(0, 1, 2)
}

// callWith makes a TLS connection as kv-0.
func callWith(from *pki.CA, address string, trusted *pki.CA) error {
	pair, err := from.Issue(pki.Request{Names: []string{"kv-0"}, Now: time.Now(), Life: time.Hour, Client: true})
	if err != nil {
		return err
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	_, err = cluster.Knock(conn, pair, trusted)
	return err
}
