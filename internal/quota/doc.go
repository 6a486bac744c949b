// Package quota shares what a pod has only so much of (watches, connections, bytes
// held for clients) among those who call, so that no one of them shuts out the others.
package quota
