package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// The exit codes, as kvctl --help says them.
const (
	exitOK          = 0
	exitError       = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitUnknown     = 5
	exitUnavailable = 6
)

// usageError is a mistake in the command line.
type usageError struct {
	cmd *cobra.Command
	err error
}

func (e *usageError) Error() string { return e.err.Error() }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd, fmt.Errorf(format, args...)}
}

// usageArgs makes a wrong number of arguments a usageError.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef(cmd, "%d arguments do not fit; it is: %s", len(args), cmd.UseLine())
		}
		return nil
	}
}

// errElse is returned when the comparisons of a transaction were false, which the
// output has said already.
var errElse = errors.New("the comparisons were false")

// report prints the error and what to do next, and returns the exit code.
func (a *app) report(err error) int {
	code := exitCode(err)
	if errors.Is(err, errElse) {
		return code
	}
	fmt.Fprintf(a.err, "kvctl: %v\n", err)
	if next := nextStep(err); next != "" {
		fmt.Fprintf(a.err, "  %s\n", next)
	}
	return code
}

func exitCode(err error) int {
	var usage *usageError
	var e *client.Error
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, client.ErrNotFound), errors.Is(err, client.ErrLeaseNotFound), errors.Is(err, client.ErrTenantNotFound):
		return exitNotFound
	case errors.Is(err, client.ErrUnknown):
		return exitUnknown
	case errors.Is(err, client.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errIdle):
		return exitUnavailable
	case errors.Is(err, errElse):
		return exitRefused
	case errors.As(err, &e) && e.Reason != 0:
		return exitRefused
	}
	return exitError
}

// nextStep says what a person can do about an error.
func nextStep(err error) string {
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return fmt.Sprintf("See: %s --help", usage.cmd.CommandPath())
	case errors.Is(err, client.ErrUnknown):
		return "Read the key to see whether it was written; writing it again may write it twice."
	case errors.Is(err, client.ErrResultCut):
		return "The write was applied, once; do not repeat it. Read the keys: kvctl get"
	case tlsStep(err) != "":
		return tlsStep(err)
	case loginStep(err) != "":
		return loginStep(err)
	case errors.Is(err, client.ErrUnauthenticated):
		return "Nothing was changed. A token is read from --token-file; a ServiceAccount's needs the audience baton: kubectl create token NAME --audience baton"
	case errors.Is(err, client.ErrNoMaster):
		return "Nothing was changed. More than half of the pods must be up to elect a master: kvctl status"
	case errors.Is(err, client.ErrRateExceeded):
		return "Nothing was changed. kvctl tenant show says what the rate is; whoever has the role root can raise it: kvctl tenant set NAME --rate"
	case errors.Is(err, client.ErrQuotaExceeded):
		return "Nothing was changed. kvctl tenant show says what there is; whoever has the role root can raise the quota: kvctl tenant set NAME --max-keys, --max-bytes"
	case errors.Is(err, client.ErrTenantNotFound):
		return "kvctl tenant list shows the tenants that there are."
	case errors.Is(err, client.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errIdle):
		return "Nothing was changed. Is a pod up at --endpoints (or BATON_ENDPOINTS)? A longer --timeout waits longer."
	case errors.Is(err, client.ErrLeaseNotFound):
		return "kvctl lease list shows the leases that there are."
	case errors.Is(err, client.ErrOtherCluster):
		return "The cluster was restored or replaced since: read the keys, and watch from the revision of that."
	case errors.Is(err, client.ErrNoSpace):
		return "Delete keys and compact: kvctl del, kvctl compact. Or make the volume larger."
	}
	return ""
}

// tlsStep is what to do when two sides that reach each other cannot talk.
func tlsStep(err error) string {
	var e *client.Error
	if !errors.As(err, &e) {
		return ""
	}
	switch e.Metadata["tls"] {
	case client.ServerIsPlain:
		return "Leave out --cacert, --cert and https://, or give kvd serve --client-certs. See kvctl config view for a context that has them."
	case client.ServerWantsTLS:
		return "If kvd has --client-certs: give --cacert with its CA. See kvctl config --help for a context that remembers it."
	case client.OtherName:
		return "Use an address that the certificate is for, or say with --tls-server-name which of its names to expect."
	case client.UnknownCA:
		return "Give the CA that the pods' certificates are of with --cacert: ca.crt in the directory of kvd serve --client-certs."
	case client.ServerExpired:
		return "Put a new certificate into the directory of kvd serve --client-certs; it is read within seconds. Or this machine's clock is wrong."
	case client.ClientRefused:
		return "Give a client certificate of the CA in kvd's ca.crt, and its key, with --cert and --key."
	}
	return ""
}

// loginStep says what a person can do who is not, or not enough of, a user.
func loginStep(err error) string {
	var e *client.Error
	if !errors.As(err, &e) {
		return ""
	}
	switch e.Reason {
	case kvv1.ErrorReason_ERROR_REASON_NO_CREDENTIALS:
		return "Nothing was changed. Log in: --user, and BATON_PASSWORD or --password"
	case kvv1.ErrorReason_ERROR_REASON_LOGIN_FAILED:
		return "Nothing was changed. Whoever has the role root can give a new password: kvctl auth user passwd"
	case kvv1.ErrorReason_ERROR_REASON_PERMISSION_DENIED:
		return "Nothing was changed. Whoever has the role root can permit it: kvctl auth role grant"
	}
	return ""
}
