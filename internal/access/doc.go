// Package access says who may do what: users, roles and permissions, in etcd's
// model, and tenants, which add a prefix of their own and its limits.
//
// A [State] is a value: [State.Apply] makes the next one, the same on every pod, and
// whoever holds one may read it without a lock. What a caller may do is asked with
// [State.Read], [State.Write] and [State.Admin], and for a command, with everything
// that is nested in it, with [State.Permit]. While access control is off, or while
// there is no State, everything is allowed.
package access
