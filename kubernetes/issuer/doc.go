// Package issuer gives a pod in Kubernetes the certificate by which it proves to the
// other pods which pod it is, where people have not configured one.
//
// The cluster's CA is in the Secret <statefulset>-peer-ca, which the manifest makes
// empty: ca.crt are the CAs to trust, the first of which issues; ca.key is its key.
// The first pod that finds the Secret empty makes the CA. All pods write by
// compare-and-swap on the Secret's version, so that there is one CA. Each pod issues
// its own certificate, for two weeks, a new one every day, and keeps it on its volume
// with the CAs: it needs the API only to renew.
//
// A CA is replaced without an interruption: the new one comes first in ca.crt, and
// the old one stays behind it. Pods trust both for some time before the first of them
// shows a certificate of the new one, and until the last certificate of the old one
// has ended. This happens when a CA comes to its last year, and when a person empties
// the Secret: the pod that fills it again adds the CAs on its volume.
//
// A pod that is broken into can issue for any other pod. Where that matters, an issuer
// outside of the pods is what helps; see docs/security.md.
package issuer
