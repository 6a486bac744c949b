// Package tokens says whose a Kubernetes ServiceAccount token is.
//
// A token is a JSON Web Token that the API server has signed. It is checked here with
// the API server's public keys, without asking anybody: signature, issuer, audience
// and times. Its name is system:serviceaccount:NAMESPACE:NAME, as in RBAC.
//
// # Invariants
//
//   - Only asymmetric signatures count, by a list: a token that says "none", or that
//     is signed with a public key as if it were a secret, is refused before a key is
//     looked at.
//   - Whoever sends tokens cannot make a pod ask the API server more often than
//     every ten seconds, whatever keys they name.
//   - A token is never in an error, and is kept as a hash only.
//
// # Caveats
//
// Offline, a token counts until it expires, even if its pod or its ServiceAccount
// has been deleted since: Kubernetes gives tokens to pods for an hour. With Review
// the API server is asked, and its answer counts for a minute.
package tokens
