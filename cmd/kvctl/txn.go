package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/batondb/baton/client"
	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// maxScriptBytes exceeds the largest transaction.
const maxScriptBytes = 16 << 20

func newTxn(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "txn [FILE]", Short: "Compare, and write, atomically",
		Long: `Run a transaction from FILE or standard input; on a terminal, ask for it.
When every if is true the operations after then run, else those after else: all
at one revision, or none. One statement a line:

  if KEY exists
  if KEY absent
  if KEY value|version|create-revision|mod-revision|lease  =|!=|>|<  X
  then
  put KEY VALUE [lease=ID]
  get KEY [prefix]
  del KEY [prefix]
  else
  ...

A word with spaces is quoted, as in Go: "two words", "a\tb", "\xff". A # starts
a comment. Without an if, the operations after then run. A key that does not
exist has version, revisions and lease 0; its value equals nothing.

The exit code is 4 when the else branch ran.`,
		Example: `  kvctl txn transfer.txn

  printf 'if lock absent
  put lock "host 1"
  else
  get lock' | kvctl txn

  kvctl txn              # asks, line by line; an empty line goes on`,
		Args: usageArgs(cobra.MaximumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			script, err := a.readScript(cmd, args)
			if err != nil {
				return err
			}
			return a.with(cmd, func(ctx context.Context, c *client.Client) error {
				return a.commit(ctx, c, script)
			})
		},
	}
}

func (a *app) readScript(cmd *cobra.Command, args []string) (*txnScript, error) {
	name, in := "standard input", a.in
	switch {
	case len(args) == 1:
		f, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		defer f.Close()
		name, in = args[0], f
	case a.inTerminal:
		return a.askScript()
	}
	content, err := io.ReadAll(io.LimitReader(in, maxScriptBytes))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	script, err := parseScript(string(content))
	if err != nil {
		return nil, usagef(cmd, "%s: %w", name, err)
	}
	return script, nil
}

// askScript asks a person for a transaction. A line that cannot be read is told
// and asked for again; an empty line goes on to the next part.
func (a *app) askScript() (*txnScript, error) {
	s := &txnScript{section: inIf}
	lines := bufio.NewScanner(a.in)
	a.printf("Lines like: if KEY version = 3. An empty line goes on: if, then, else, done.\n")
	for number := 1; ; number++ {
		a.printf("%s> ", s.section)
		if err := a.flush(); err != nil {
			return nil, err
		}
		if !lines.Scan() {
			a.printf("\n")
			if lines.Err() == nil {
				return nil, errors.New("the input ended before the transaction did; nothing was written")
			}
			return nil, lines.Err()
		}
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			switch s.section {
			case inIf:
				s.section = inThen
			case inThen:
				s.section = inElse
			case inElse:
				return s, nil
			}
			continue
		}
		if err := s.parseLine(number, s.complete(line)); err != nil {
			var where *scriptError
			if errors.As(err, &where) {
				err = errors.New(where.message)
			}
			a.printf("  %v\n", err)
		}
	}
}

// complete lets a person leave out the word that the prompt already says.
func (s *txnScript) complete(line string) string {
	first, _, _ := strings.Cut(line, " ")
	switch first {
	case "if", "then", "else", "put", "get", "del":
		return line
	}
	if s.section == inIf {
		return "if " + line
	}
	return line
}

func (a *app) commit(ctx context.Context, c *client.Client, script *txnScript) error {
	response, err := script.build(c).Commit(ctx)
	if err != nil {
		return err
	}
	ran := script.then
	if !response.GetSucceeded() {
		ran = script.els
	}
	if a.json() {
		err = a.printJSON(txnJSON(response))
	} else {
		a.printTxn(response, ran)
	}
	if err == nil && !response.GetSucceeded() {
		return errElse
	}
	return err
}

func (a *app) printTxn(response *kvv1.TxnResponse, ran []operation) {
	branch := "then"
	if !response.GetSucceeded() {
		branch = "else"
	}
	a.printf("%s, revision %d\n", branch, response.GetHeader().GetRevision())
	for i, result := range response.GetResults() {
		if i == len(ran) {
			break
		}
		name := ran[i].verb + " " + text([]byte(ran[i].key))
		switch {
		case result.GetDelete() != nil:
			a.printf("%s: deleted %s\n", name, plural(result.GetDelete().GetDeleted(), "key"))
		case result.GetRange() != nil:
			a.printf("%s: %s\n", name, plural(int64(len(result.GetRange().GetKvs())), "key"))
			for _, kv := range result.GetRange().GetKvs() {
				a.printf("%s\t%s\n", text(kv.GetKey()), text(kv.GetValue()))
			}
		default:
			a.printf("%s: done\n", name)
		}
	}
}

// txnResult is the result of one operation in JSON.
type txnResult struct {
	Operation string    `json:"operation"`
	Deleted   *int64    `json:"deleted,omitempty"`
	KVs       []*jsonKV `json:"kvs,omitempty"`
	More      bool      `json:"more,omitempty"`
}

func txnJSON(response *kvv1.TxnResponse) any {
	results := []txnResult{}
	for _, r := range response.GetResults() {
		result := txnResult{Operation: "put"}
		if d := r.GetDelete(); d != nil {
			deleted := d.GetDeleted()
			result = txnResult{Operation: "del", Deleted: &deleted}
		}
		if found := r.GetRange(); found != nil {
			result = txnResult{Operation: "get", KVs: toJSONs(found.GetKvs(), true), More: found.GetMore()}
		}
		results = append(results, result)
	}
	return struct {
		Succeeded bool        `json:"succeeded"`
		Revision  int64       `json:"revision"`
		Results   []txnResult `json:"results"`
	}{response.GetSucceeded(), response.GetHeader().GetRevision(), results}
}
