// Package rights compares access control with etcd's: the same random users, roles,
// permissions and requests of theirs, nested ones and watches too, go to a real etcd and
// to three pods of Baton, and every answer must have the same fields. A naive model says
// of most requests whether they are permitted at all, so that two systems with the same
// hole do not agree in it.
package rights
