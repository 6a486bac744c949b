// Package sleep waits no longer than its caller does.
package sleep
