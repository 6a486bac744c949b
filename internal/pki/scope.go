package pki

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// PodNames are the names to put into a pod's certificate. service and namespace may
// be empty outside Kubernetes.
func PodNames(pod, service, namespace string) []string {
	names := []string{pod}
	if service != "" {
		names = append(names, pod+"."+service)
		if namespace != "" {
			names = append(names, pod+"."+service+"."+namespace+".svc")
		}
	}
	slices.Reverse(names)
	return names
}

// Scope is the pods that belong to one StatefulSet, at one place: a Service of a
// namespace, for example, or a path of SPIFFE ids. A CA may issue for others, too: a
// kv-1 of another namespace is not this one.
type Scope struct {
	set    string   // the pods' names up to the ordinal: "kv-"
	places []string // what follows the pod's name, ".kv.shop.svc"; or comes before it, "spiffe://..."
	// domains are what may follow ".svc"; without any the place ends there, or defaultDomain
	// follows.
	domains []string
}

// defaultDomain is the domain of a Kubernetes cluster unless somebody chose another.
const defaultDomain = "cluster.local"

// ScopeOf is the scope of a pod with this certificate. Of the DNS names in it the
// longest ones count: whoever has been given kv-1.kv.shop.svc may be called kv-1 as
// well, and so may the pod of another namespace.
func ScopeOf(certificate *x509.Certificate, pod string) (Scope, error) {
	s := Scope{set: setOf(pod)}
	if s.set == "" {
		return s, fmt.Errorf("%q is not the name of a pod, as kv-0 is", pod)
	}
	labels := -1
	for _, n := range namesIn(certificate) {
		if n.pod != pod {
			continue
		}
		switch count := strings.Count(n.place, "."); {
		case n.uri:
			s.places = append(s.places, n.place)
		case count > labels:
			labels, s.domains = count, nil
			s.places = slices.DeleteFunc(s.places, func(p string) bool { return !strings.Contains(p, "://") })
			fallthrough
		case count == labels:
			s.places = append(s.places, n.place)
			if n.domain != "" {
				s.domains = append(s.domains, n.domain)
			}
		}
	}
	if s.places == nil {
		return s, fmt.Errorf("the certificate is for %s, and not for %s: issue one with the name %s in it", describe(certificate), pod, pod)
	}
	return s, nil
}

// Pod is the pod of the scope that a certificate is for. It says nothing about who
// has issued it.
func (s Scope) Pod(certificate *x509.Certificate) (string, error) {
	pod := ""
	for _, n := range namesIn(certificate) {
		if setOf(n.pod) != s.set || !slices.Contains(s.places, n.place) || !s.within(n.domain) {
			continue
		}
		if pod != "" && pod != n.pod {
			return "", fmt.Errorf("the certificate is for %s and %s: each pod needs its own", pod, n.pod)
		}
		pod = n.pod
	}
	if pod == "" {
		return "", fmt.Errorf("the certificate is for %s, and for no pod of %s", describe(certificate), s)
	}
	return pod, nil
}

// within says whether a domain is the cluster's: whoever owns another one may well have
// a certificate for kv-0.kv.shop.svc in it.
func (s Scope) within(domain string) bool {
	return domain == "" || slices.Contains(s.domains, domain) || s.domains == nil && domain == defaultDomain
}

func (s Scope) String() string {
	var all []string
	for _, place := range s.places {
		if strings.Contains(place, "://") {
			all = append(all, place+s.set+"N")
		} else {
			all = append(all, s.set+"N"+place)
		}
	}
	return strings.Join(all, " or ")
}

// podName is a name that could be a pod's.
type podName struct {
	pod, place string
	domain     string // what follows ".svc" in a DNS name
	uri        bool
}

func namesIn(certificate *x509.Certificate) []podName {
	var all []podName
	for _, name := range certificate.DNSNames {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		domain := "" // It may be there or not.
		if labels := strings.Split(name, "."); len(labels) > 4 && labels[3] == "svc" {
			name, domain = strings.Join(labels[:4], "."), strings.Join(labels[4:], ".")
		}
		pod, place := name, ""
		if i := strings.IndexByte(name, '.'); i >= 0 {
			pod, place = name[:i], name[i:]
		}
		if setOf(pod) != "" {
			all = append(all, podName{pod: pod, place: place, domain: domain})
		}
	}
	for _, uri := range certificate.URIs {
		text := uri.String()
		i := strings.LastIndexByte(text, '/')
		if uri.Scheme == "spiffe" && setOf(text[i+1:]) != "" {
			all = append(all, podName{pod: text[i+1:], place: text[:i+1], uri: true})
		}
	}
	return all
}

// setOf is a pod's name up to its ordinal; empty: it is not a pod's name.
func setOf(pod string) string {
	i := strings.LastIndexByte(pod, '-')
	if i < 1 || strings.ContainsAny(pod, "*/:") {
		return ""
	}
	ordinal := pod[i+1:]
	if n, err := strconv.ParseUint(ordinal, 10, 31); err != nil || strconv.FormatUint(n, 10) != ordinal {
		return ""
	}
	return pod[:i+1]
}

// describe is what a certificate is for, for messages.
func describe(certificate *x509.Certificate) string {
	all := slices.Clone(certificate.DNSNames)
	for _, uri := range certificate.URIs {
		all = append(all, uri.String())
	}
	for _, ip := range certificate.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return strconv.Quote(certificate.Subject.String())
	}
	return strings.Join(all, ", ")
}
