package main

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/batondb/baton/client"
)

// The script of a transaction, one statement a line:
//
//	if KEY exists | absent
//	if KEY value|version|create-revision|mod-revision|lease  = | != | > | <  X
//	then
//	put KEY VALUE [lease=ID]
//	get KEY [prefix]
//	del KEY [prefix]
//	else
//	...
//
// A word is anything without spaces, or a quoted string as in Go. A # that
// starts a word starts a comment.

// txnScript is a parsed script.
type txnScript struct {
	section   section
	ifs       []condition
	then, els []operation
}

type section string

const (
	inIf   section = "if"
	inThen section = "then"
	inElse section = "else"
)

type condition struct {
	key, field, operator string
	value                string // of field value
	number               int64  // of the other fields
}

type operation struct {
	verb, key, value string
	prefix           bool
	lease            int64
}

// scriptError says where a script is wrong.
type scriptError struct {
	line, column int
	message      string
}

func (e *scriptError) Error() string {
	return fmt.Sprintf("line %d, column %d: %s", e.line, e.column, e.message)
}

// word is one word of a line; column counts characters from 1.
type word struct {
	text   string
	column int
	quoted bool
}

// parseScript reads a whole script.
func parseScript(text string) (*txnScript, error) {
	s := &txnScript{section: inIf}
	for i, line := range strings.Split(text, "\n") {
		if err := s.parseLine(i+1, line); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// parseLine reads one line. An error leaves the script as it was.
func (s *txnScript) parseLine(number int, line string) error {
	words, column, message := splitWords(strings.TrimSuffix(line, "\r"))
	if message != "" {
		return &scriptError{number, column, message}
	}
	if len(words) == 0 {
		return nil
	}
	r := &lineReader{number: number, words: words, end: utf8.RuneCountInString(line) + 1}
	s.statement(r)
	if r.err == nil && r.next < len(r.words) {
		r.fail(r.words[r.next], "there is more than expected here")
	}
	if r.err != nil {
		return r.err
	}
	return nil
}

// splitWords splits a line into words, or says where and why it cannot.
func splitWords(line string) (words []word, column int, message string) {
	column = 1
	for rest := line; rest != ""; {
		first, n := utf8.DecodeRuneInString(rest)
		switch {
		case unicode.IsSpace(first):
			rest, column = rest[n:], column+1
			continue
		case first == '#':
			return words, 0, ""
		case first == '"':
			quoted, err := strconv.QuotedPrefix(rest)
			if err != nil {
				return nil, column, "this quoted string does not end, or has a wrong \\ sequence"
			}
			text, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, column, "this quoted string has a wrong \\ sequence"
			}
			words = append(words, word{text, column, true})
			rest, column = rest[len(quoted):], column+utf8.RuneCountInString(quoted)
			if next, _ := utf8.DecodeRuneInString(rest); rest != "" && !unicode.IsSpace(next) {
				return nil, column, "a space must follow a quoted string"
			}
		default:
			end := strings.IndexFunc(rest, unicode.IsSpace)
			if end < 0 {
				end = len(rest)
			}
			if quote := strings.IndexByte(rest[:end], '"'); quote >= 0 {
				return nil, column + utf8.RuneCountInString(rest[:quote]), `a " must stand at the start of a word; inside a quoted string write \"`
			}
			words = append(words, word{rest[:end], column, false})
			column += utf8.RuneCountInString(rest[:end])
			rest = rest[end:]
		}
	}
	return words, 0, ""
}

// lineReader reads a line word by word. After the first error it returns empty
// words.
type lineReader struct {
	number int
	words  []word
	next   int
	end    int
	err    error
}

func (r *lineReader) fail(w word, message string) {
	if r.err == nil {
		r.err = &scriptError{r.number, w.column, message}
	}
}

func (r *lineReader) more() bool { return r.err == nil && r.next < len(r.words) }

// word reads the next word; what names it in the error.
func (r *lineReader) word(what string) word {
	if !r.more() {
		r.fail(word{column: r.end}, what+" is missing")
		return word{column: r.end}
	}
	r.next++
	return r.words[r.next-1]
}

// key reads a key. Only a prefix may be empty.
func (r *lineReader) key() (key string, refuseEmpty func()) {
	w := r.word("a key")
	return w.text, func() {
		if w.text == "" {
			r.fail(w, "a key must not be empty")
		}
	}
}

func (s *txnScript) statement(r *lineReader) {
	verb := r.word("a statement")
	keyword := verb.text
	if verb.quoted {
		keyword = ""
	}
	switch keyword {
	case "if":
		if s.section != inIf {
			r.fail(verb, "an if must stand before then, and before the first operation")
			return
		}
		if c := parseCondition(r); r.err == nil && !r.more() {
			s.ifs = append(s.ifs, c)
		}
	case "then", "else":
		if r.more() {
			return // parseLine refuses what follows
		}
		if s.section == inElse || s.section == inThen && keyword == "then" {
			r.fail(verb, "there is a "+keyword+" already, or an else before it")
			return
		}
		s.section = section(keyword)
	case "put", "get", "del":
		op := parseOperation(keyword, r)
		if r.err != nil || r.more() {
			return
		}
		if s.section == inElse {
			s.els = append(s.els, op)
			return
		}
		s.section = inThen
		s.then = append(s.then, op)
	default:
		r.fail(verb, fmt.Sprintf("%q is no statement; use if, then, else, put, get or del", verb.text))
	}
}

func parseCondition(r *lineReader) condition {
	key, refuseEmpty := r.key()
	refuseEmpty()
	c := condition{key: key}
	field := r.word("exists, absent, or what to compare")
	c.field = field.text
	switch c.field {
	case "exists", "absent":
		return c
	case "value", "version", "create-revision", "mod-revision", "lease":
	default:
		r.fail(field, "use exists, absent, value, version, create-revision, mod-revision or lease")
	}
	operator := r.word("an operator, = != > or <,")
	c.operator = operator.text
	if !strings.Contains(" = != > < ", " "+c.operator+" ") {
		r.fail(operator, "use one of the operators = != > <")
	}
	value := r.word("the value to compare with")
	if c.field == "value" {
		c.value = value.text
		return c
	}
	number, err := strconv.ParseInt(value.text, 10, 64)
	if err != nil {
		r.fail(value, c.field+" is compared with a whole number")
	}
	c.number = number
	return c
}

func parseOperation(verb string, r *lineReader) operation {
	key, refuseEmpty := r.key()
	op := operation{verb: verb, key: key}
	if verb != "put" {
		if r.more() {
			w := r.word("prefix")
			op.prefix = w.text == "prefix" && !w.quoted
			if !op.prefix {
				r.fail(w, "only the word prefix may follow the key")
			}
		}
		if !op.prefix {
			refuseEmpty()
		}
		return op
	}
	refuseEmpty()
	op.value = r.word("a value").text
	if r.more() {
		w := r.word("lease=ID")
		id, ok := strings.CutPrefix(w.text, "lease=")
		lease, err := strconv.ParseInt(id, 10, 64)
		if w.quoted || !ok || err != nil {
			r.fail(w, "only lease=ID may follow the value; quote a value that has spaces")
		}
		op.lease = lease
	}
	return op
}

// String writes the script so that it parses to the same again.
func (s *txnScript) String() string {
	var b strings.Builder
	for _, c := range s.ifs {
		fmt.Fprintf(&b, "if %q %s", c.key, c.field)
		switch c.field {
		case "exists", "absent":
		case "value":
			fmt.Fprintf(&b, " %s %q", c.operator, c.value)
		default:
			fmt.Fprintf(&b, " %s %d", c.operator, c.number)
		}
		b.WriteByte('\n')
	}
	b.WriteString("then\n")
	writeOperations(&b, s.then)
	b.WriteString("else\n")
	writeOperations(&b, s.els)
	return b.String()
}

func writeOperations(b *strings.Builder, ops []operation) {
	for _, op := range ops {
		fmt.Fprintf(b, "%s %q", op.verb, op.key)
		if op.verb == "put" {
			fmt.Fprintf(b, " %q", op.value)
		}
		if op.lease != 0 {
			fmt.Fprintf(b, " lease=%d", op.lease)
		}
		if op.prefix {
			b.WriteString(" prefix")
		}
		b.WriteByte('\n')
	}
}

// build makes a transaction of the script.
func (s *txnScript) build(c *client.Client) *client.Txn {
	t := c.Txn()
	for _, i := range s.ifs {
		switch i.field {
		case "exists":
			t.IfExists(i.key)
		case "absent":
			t.IfAbsent(i.key)
		case "value":
			t.IfValue(i.key, i.operator, []byte(i.value))
		case "version":
			t.IfVersion(i.key, i.operator, i.number)
		case "create-revision":
			t.IfCreateRevision(i.key, i.operator, i.number)
		case "mod-revision":
			t.IfModRevision(i.key, i.operator, i.number)
		case "lease":
			t.IfLease(i.key, i.operator, i.number)
		}
	}
	buildOperations(t.Then(), s.then)
	buildOperations(t.Else(), s.els)
	return t
}

func buildOperations(t *client.Txn, ops []operation) {
	for _, op := range ops {
		keys := client.Key(op.key)
		if op.prefix {
			keys = client.Prefix(op.key)
		}
		switch op.verb {
		case "put":
			t.Put(op.key, []byte(op.value), client.WithLease(op.lease))
		case "get":
			t.Get(keys)
		case "del":
			t.Delete(keys)
		}
	}
}
