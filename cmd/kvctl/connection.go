package main

import (
	"crypto/tls"
	"strings"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
)

// connection is where the cluster is and what proves who is who: what a flag says,
// else an environment variable, else the context in use. Its fields are those of a
// context in the file; see contexts.
type connection struct {
	Endpoints  []string `json:"endpoints,omitempty"`
	CACert     string   `json:"cacert,omitempty"`
	Cert       string   `json:"cert,omitempty"`
	Key        string   `json:"key,omitempty"`
	ServerName string   `json:"tls-server-name,omitempty"`
	TokenFile  string   `json:"token-file,omitempty"`
	User       string   `json:"user,omitempty"`
	password   string   // Never in the file.
}

// setting is one of the settings that are a word.
type setting struct {
	flag, usage string
	value       func(*connection) *string
	file        bool
}

var settings = []setting{
	{"cacert", "file with the CA certificates that the pods' certificates are of; with it, the connections use TLS", func(c *connection) *string { return &c.CACert }, true},
	{"cert", "file with the client certificate to show", func(c *connection) *string { return &c.Cert }, true},
	{"key", "file with the key of --cert", func(c *connection) *string { return &c.Key }, true},
	{"tls-server-name", "the name that the pods' certificates must be for, when it is not in the address (as through a port-forward)", func(c *connection) *string { return &c.ServerName }, false},
	{"token-file", "file with a token to send, for example of a ServiceAccount; read again when it changes", func(c *connection) *string { return &c.TokenFile }, true},
	{"user", "the user to log in as, with --password", func(c *connection) *string { return &c.User }, false},
}

// variable is the environment variable of a flag.
func variable(flag string) string {
	return "BATON_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// registerConnection adds the flags that say where the cluster is.
func (a *app) registerConnection(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&a.context, "context", "", "which context of the configuration file to use; see kvctl config")
	flags.StringSliceVar(&a.connection.Endpoints, "endpoints", nil, "host:port of one or more pods (default "+defaultEndpoint+"); https:// before it asks for TLS")
	noFiles(root, "context", "endpoints", "timeout")
	for _, s := range settings {
		flags.StringVar(s.value(&a.connection), s.flag, "", s.usage)
		if !s.file {
			noFiles(root, s.flag)
		}
	}
	flags.StringVar(&a.connection.password, "password", "", "the password of --user; others see it in the list of processes: BATON_PASSWORD, or asked for on the terminal, is better")
	noFiles(root, "password")
}

// resolvePassword finds the password of a user who logs in, and asks for it if it can.
func (a *app) resolvePassword(cmd *cobra.Command) (err error) {
	c := &a.connection
	if c.User == "" {
		return nil
	}
	if !cmd.Flags().Changed("password") {
		c.password = a.env(variable("password"))
	}
	if c.password == "" && a.inTerminal {
		c.password, err = a.ask("Password of " + c.User + ": ")
	}
	if err == nil && c.password == "" {
		err = usagef(cmd, "--user %s has no password: give BATON_PASSWORD, or --password", c.User)
	}
	return err
}

// resolveConnection fills in what no flag said.
func (a *app) resolveConnection(cmd *cobra.Command) error {
	var of connection
	file, err := a.readContexts()
	if err != nil {
		return err
	}
	name := a.context
	if name == "" {
		name = a.env(variable("context"))
	}
	if name == "" {
		name = file.Current
	}
	if name != "" {
		found := file.find(name)
		if found == nil {
			return usagef(cmd, "there is no context %q in %s; see kvctl config get-contexts", name, a.contextsPath())
		}
		of = *found
	}
	c := &a.connection
	if !cmd.Flags().Changed("endpoints") {
		c.Endpoints = of.Endpoints
		if given := a.env(variable("endpoints")); given != "" {
			c.Endpoints = strings.Split(given, ",")
		}
	}
	for _, s := range settings {
		if cmd.Flags().Changed(s.flag) {
			continue
		}
		*s.value(c) = *s.value(&of)
		if given := a.env(variable(s.flag)); given != "" {
			*s.value(c) = given
		}
	}
	if len(c.Endpoints) == 0 && !cmd.Flags().Changed("endpoints") {
		c.Endpoints = []string{defaultEndpoint}
	}
	if err := a.resolvePassword(cmd); err != nil {
		return err
	}
	return c.check(cmd)
}

// check refuses what cannot be meant.
func (c *connection) check(cmd *cobra.Command) error {
	if len(c.Endpoints) == 0 {
		return usagef(cmd, "--endpoints is empty; give host:port of a pod")
	}
	schemes := map[string]bool{}
	for i, endpoint := range c.Endpoints {
		endpoint = strings.TrimSpace(endpoint)
		scheme, address, found := strings.Cut(endpoint, "://")
		if !found {
			scheme, address = "", endpoint
		}
		if !strings.Contains(address, ":") || scheme != "" && scheme != "http" && scheme != "https" {
			return usagef(cmd, "--endpoints: %q is not host:port", endpoint)
		}
		schemes[scheme] = true
		c.Endpoints[i] = endpoint
	}
	switch {
	case len(schemes) > 1:
		return usagef(cmd, "--endpoints: the pods of one cluster all speak TLS, or none does; begin all with https://, or none")
	case (c.Cert == "") != (c.Key == ""):
		return usagef(cmd, "--cert and --key belong together: give both, or neither")
	case schemes["http"] && c.files() != (client.TLSFiles{}):
		return usagef(cmd, "--endpoints: http:// has no TLS, so --cacert, --cert and --tls-server-name have no meaning with it")
	}
	return nil
}

func (c *connection) files() client.TLSFiles {
	return client.TLSFiles{CA: c.CACert, Cert: c.Cert, Key: c.Key, ServerName: c.ServerName}
}

// options are what the client is made with.
func (c *connection) options() client.Options {
	o := client.Options{Files: c.files(), TokenFile: c.TokenFile, User: c.User, Password: c.password}
	for _, endpoint := range c.Endpoints {
		_, address, found := strings.Cut(endpoint, "://")
		if !found {
			address = endpoint
		}
		o.Endpoints = append(o.Endpoints, address)
		if strings.HasPrefix(endpoint, "https://") && o.Files == (client.TLSFiles{}) {
			o.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
		}
	}
	return o
}
