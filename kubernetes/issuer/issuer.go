package issuer

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/batondb/baton/internal/pki"
	"github.com/batondb/baton/internal/sleep"
	"github.com/batondb/baton/kubernetes"
)

const day = 24 * time.Hour

const (
	// caLife is long: to replace a CA is done by itself, and still is a change.
	caLife = 10 * 365 * day
	// caLast is how long before its end a CA is replaced.
	caLast = 365 * day
	// life of a pod's certificate: for so long the cluster goes on without the API.
	life = 14 * day
	// renewAfter leaves most of a certificate's life to outages of the API.
	renewAfter = day
	// settle is how long all pods know a CA before one shows a certificate of it.
	settle = 10 * time.Minute
	// look is how often the Secret is read.
	look = time.Minute
	// maxClockAhead is how far this machine's clock may be from the API server's when a CA
	// is written: one that is wrong by more makes a CA that others take for one of the
	// future or the past, or takes theirs for that, and all pods have it until a person
	// sees to it.
	maxClockAhead = 5 * time.Minute
	// retry is how often a pod tries that has no certificate yet.
	retry = time.Second

	secretName = "peer-ca"
	// tries bounds how often a pod is beaten by another one that writes the Secret.
	tries = 5
)

// Issuer keeps a pod's certificate. Its methods are for one goroutine.
type Issuer struct {
	Pod *kubernetes.Pod
	// Names are those to put into the certificate; the first is the pod's full name.
	Names []string
	// Dir is where the certificate is kept, on the pod's volume.
	Dir    string
	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
	said   string
}

// Obtain returns when the pod has a certificate: the one on its volume if that will
// do, without asking, or a new one. say is told why it waits.
func (i *Issuer) Obtain(ctx context.Context, say func(because string)) error {
	defer say("")
	for !i.usable() {
		err := i.Renew(ctx)
		if err == nil {
			return ctx.Err()
		}
		say("it has no certificate for the other pods yet: " + err.Error())
		i.log(err)
		if !sleep.For(ctx, retry) {
			return ctx.Err()
		}
	}
	return nil
}

// Run renews the certificate in time until ctx ends. changed is called when there is
// another one, or another CA, on the volume.
func (i *Issuer) Run(ctx context.Context, changed func()) {
	for more := true; more; more = sleep.For(ctx, look) {
		before := i.onDisk()
		err := i.Renew(ctx)
		i.log(err)
		if err == nil && !before.equal(i.onDisk()) {
			changed()
		}
	}
}

// log says what is wrong when it changes.
func (i *Issuer) log(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != i.said {
		i.Logger.Warn("the certificate for the other pods is not renewed; what there is goes on until it ends", slog.Any("error", err))
	}
	i.said = text
}

func (i *Issuer) now() time.Time {
	if i.Now == nil {
		return time.Now()
	}
	return i.Now()
}

// Renew makes what is on the volume what it should be, once.
func (i *Issuer) Renew(ctx context.Context) error {
	a, err := i.authority(ctx)
	if err != nil {
		return err
	}
	old := i.onDisk()
	pair := old.pair
	if why := i.renewBecause(old, a); why != "" {
		pair, err = a.ca.Issue(pki.Request{
			CommonName: i.Names[0], Names: i.Names, Now: i.now(), Life: life, Server: true, Client: true,
		})
		if err != nil {
			return err
		}
		if err := i.check(pair, a.bundle); err != nil {
			return fmt.Errorf("a certificate of the CA in the Secret would not do: %w; compare the clocks of the machines", err)
		}
		i.Logger.Debug("a new certificate for the other pods", slog.String("because", why))
	}
	now := files{pair: pair, bundle: a.bundle}
	if now.equal(old) {
		return nil
	}
	return pki.WriteFiles(i.Dir, now.pair, now.bundle)
}

// renewBecause says why a new certificate is needed; empty: it is not.
func (i *Issuer) renewBecause(old files, a authority) string {
	m, err := pki.ParseMaterial(old.pair, a.bundle)
	if err != nil {
		return "there is none"
	}
	leaf := m.Certificate.Leaf
	if !slices.Equal(leaf.DNSNames, i.Names) {
		return "the pod's names are others"
	}
	if err := m.Verify([]*x509.Certificate{leaf}, x509.ExtKeyUsageClientAuth, "", i.now()); err != nil {
		return err.Error()
	}
	if leaf.NotAfter.Sub(i.now()) < life-renewAfter {
		return "it is a day old"
	}
	if leaf.CheckSignatureFrom(a.ca.Certificate) != nil && i.age(a.ca.Certificate) >= settle {
		return "there is a newer CA"
	}
	return ""
}

func (i *Issuer) age(c *x509.Certificate) time.Duration {
	return i.now().Sub(c.NotBefore) - pki.Backdated
}

// usable says that the pod can begin with what is on its volume.
func (i *Issuer) usable() bool {
	old := i.onDisk()
	return i.check(old.pair, old.bundle) == nil
}

// check says why the pod cannot begin with a certificate; nil: it can.
func (i *Issuer) check(pair pki.Pair, bundle []byte) error {
	m, err := pki.ParseMaterial(pair, bundle)
	if err != nil {
		return err
	}
	if leaf := m.Certificate.Leaf; !slices.Equal(leaf.DNSNames, i.Names) {
		return fmt.Errorf("it is for %v, and not for %v", leaf.DNSNames, i.Names)
	}
	return m.Verify([]*x509.Certificate{m.Certificate.Leaf}, x509.ExtKeyUsageClientAuth, "", i.now())
}

// files are what is on the volume.
type files struct {
	pair   pki.Pair
	bundle []byte
}

func (f files) equal(o files) bool {
	return bytes.Equal(f.pair.Certificate, o.pair.Certificate) && bytes.Equal(f.pair.Key, o.pair.Key) && bytes.Equal(f.bundle, o.bundle)
}

// onDisk reads them; what cannot be read is not there.
func (i *Issuer) onDisk() (f files) {
	for name, into := range map[string]*[]byte{
		pki.FileCertificate: &f.pair.Certificate, pki.FileKey: &f.pair.Key, pki.FileCA: &f.bundle,
	} {
		*into, _ = os.ReadFile(filepath.Join(i.Dir, name)) //nolint:errcheck // It is made again then.
	}
	return f
}

// authority is the CA that issues, and those to trust.
type authority struct {
	ca     *pki.CA
	bundle []byte
}

// authority reads the Secret, and writes it when a CA is to be made or forgotten.
func (i *Issuer) authority(ctx context.Context) (authority, error) {
	for range tries {
		secret, err := i.Pod.Secret(ctx, secretName)
		if err != nil {
			return authority{}, err
		}
		a, change, err := i.judge(secret)
		if err != nil || !change {
			return a, err
		}
		if err := i.checkClock(); err != nil {
			return authority{}, err
		}
		pair, err := a.ca.Pair()
		if err != nil {
			return authority{}, err
		}
		err = i.Pod.UpdateSecret(ctx, secret, map[string][]byte{pki.FileCA: a.bundle, pki.FileCAKey: pair.Key})
		if err == nil {
			i.Logger.Info("the CA of the connections between pods has changed", slog.String("secret", secret.Name),
				slog.String("ca", a.ca.Certificate.Subject.CommonName))
			return a, nil
		}
		if !errors.Is(err, kubernetes.ErrChanged) {
			return authority{}, err
		}
	}
	return authority{}, fmt.Errorf("the CA: %w, %d times in a row", kubernetes.ErrChanged, tries)
}

// checkClock refuses to change the Secret by a clock that is not the API server's.
func (i *Issuer) checkClock() error {
	ahead, known := i.Pod.ClockAhead()
	if !known || ahead.Abs() <= maxClockAhead {
		return nil
	}
	which := "ahead of"
	if ahead < 0 {
		which = "behind"
	}
	return fmt.Errorf("the CA in the Secret is not changed: this machine's clock is %s %s the API server's, at most %s are allowed; put the clock right",
		ahead.Abs().Truncate(time.Second), which, maxClockAhead)
}

// judge says what the Secret should be, and whether that is a change.
func (i *Issuer) judge(secret *kubernetes.Secret) (a authority, change bool, err error) {
	if len(secret.Data[pki.FileCA]) == 0 && len(secret.Data[pki.FileCAKey]) == 0 {
		a, err = i.found(i.trusted())
		return a, true, err
	}
	all, err := pki.ParseCertificates(secret.Data[pki.FileCA])
	if err == nil {
		a.ca, err = pki.ParseCA(pki.Pair{Certificate: secret.Data[pki.FileCA], Key: secret.Data[pki.FileCAKey]})
	}
	if err != nil {
		return a, false, fmt.Errorf("the Secret %s: %w; to have a new CA made, remove its data: kubectl patch secret %s --type=json -p '[{\"op\":\"remove\",\"path\":\"/data\"}]'",
			secret.Name, err, secret.Name)
	}
	if ca := a.ca.Certificate; i.now().Before(ca.NotBefore) {
		return a, false, fmt.Errorf("the CA in the Secret %s begins at %s, and by this machine's clock it is %s: compare the clocks of the machines; if the one was wrong of the pod that made the CA, remove the Secret's data for a new one",
			secret.Name, ca.NotBefore.UTC().Format(time.RFC3339), i.now().UTC().Format(time.RFC3339))
	}
	if a.ca.Certificate.NotAfter.Sub(i.now()) < caLast {
		a, err = i.found(all)
		return a, true, err
	}
	var kept []*x509.Certificate
	for _, c := range i.withOwn(all, a.ca.Certificate) {
		// Nobody has a certificate of an older CA any more after some time.
		if c.Equal(a.ca.Certificate) || i.age(a.ca.Certificate) <= life+day && c.NotAfter.After(i.now()) {
			kept = append(kept, c)
		}
	}
	a.bundle = pki.EncodeCertificates(kept...)
	return a, !slices.EqualFunc(kept, all, (*x509.Certificate).Equal), nil
}

// withOwn adds the CAs that this pod has trusted so far to those that are trusted, as
// long as the one that issues is new: whoever made it may have come without a volume,
// and known of none.
func (i *Issuer) withOwn(all []*x509.Certificate, issues *x509.Certificate) []*x509.Certificate {
	if i.age(issues) >= settle {
		return all
	}
	all = slices.Clone(all)
	for _, c := range i.trusted() {
		if !slices.ContainsFunc(all, c.Equal) {
			all = append(all, c)
		}
	}
	return all
}

// trusted are the CAs on the volume, if this pod was one of this cluster.
func (i *Issuer) trusted() []*x509.Certificate {
	if !i.usable() {
		return nil
	}
	all, _ := pki.ParseCertificates(i.onDisk().bundle) //nolint:errcheck // usable has read it.
	return all
}

// found makes a CA, and goes on trusting others.
func (i *Issuer) found(others []*x509.Certificate) (authority, error) {
	ca, err := pki.NewCA("baton "+i.Names[0]+" "+i.now().UTC().Format(time.RFC3339), i.now(), caLife)
	if err != nil {
		return authority{}, err
	}
	return authority{ca: ca, bundle: pki.EncodeCertificates(append([]*x509.Certificate{ca.Certificate}, others...)...)}, nil
}
