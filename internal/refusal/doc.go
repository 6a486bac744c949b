// Package refusal has the one type of error that reaches clients with a reason,
// and the one table that says what each reason means: its gRPC code, whether
// every replica gives it, and whether the master would be a better pod to ask.
//
// Parts of the server return a *Error, or wrap one; sentinels are *Error, too.
package refusal
