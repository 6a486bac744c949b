package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// newPassword asks twice for a password on a terminal, and otherwise takes the first
// line of the input.
func (a *app) newPassword(cmd *cobra.Command, user string) (string, error) {
	if !a.inTerminal {
		line, err := bufio.NewReader(a.in).ReadString('\n')
		password := strings.TrimRight(line, "\r\n")
		if password == "" {
			return "", usagef(cmd, "the input has no password in its first line (%v)", err)
		}
		return password, nil
	}
	password, err := a.ask("New password of " + user + ": ")
	if err != nil {
		return "", err
	}
	again, err := a.ask("Again: ")
	switch {
	case err != nil:
		return "", err
	case password != again:
		return "", errors.New("the two are not the same: nothing was changed")
	case password == "":
		return "", errors.New("a password must not be empty: nothing was changed")
	}
	return password, nil
}

// ask reads a line from the terminal, which does not show it.
func (a *app) ask(prompt string) (string, error) {
	fmt.Fprint(a.err, prompt)
	defer fmt.Fprintln(a.err)
	password, err := term.ReadPassword(int(os.Stdin.Fd()))
	return string(password), err
}
