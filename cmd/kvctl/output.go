package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	kvv1 "github.com/batondb/baton/proto/baton/kv/v1"
)

// text shows a key or a value within a line: as it is if it is printable, otherwise
// as a quoted string. Text that starts with a quote is quoted as well, so that
// nothing is ambiguous, and nothing can send codes to the terminal.
func text(b []byte) string {
	if !utf8.Valid(b) || len(b) > 0 && b[0] == '"' {
		return strconv.Quote(string(b))
	}
	for _, r := range string(b) {
		if !unicode.IsPrint(r) {
			return strconv.Quote(string(b))
		}
	}
	return string(b)
}

// Colours of cells, as ANSI codes.
const (
	plain  = ""
	bold   = "\x1b[1m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	reset  = "\x1b[0m"
)

// colours says whether stdout may be coloured.
func (a *app) colours() bool {
	return a.outTerminal && a.env("NO_COLOR") == "" && a.env("TERM") != "dumb"
}

type cell struct {
	text, colour string
}

// table is drawn with aligned columns. Its first row is the heading.
type table struct {
	rows    [][]cell
	colours bool
}

func (t *table) row(cells ...string) {
	row := make([]cell, len(cells))
	for i, s := range cells {
		row[i] = cell{text: s}
	}
	t.rows = append(t.rows, row)
}

func (t *table) writeTo(w io.Writer) {
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2)
			if i == len(row)-1 || empty(row[i+1:]) {
				padding = ""
			}
			if t.colours && c.colour != plain {
				c.text = c.colour + c.text + reset
			}
			line.WriteString(c.text + padding)
			if padding == "" {
				break
			}
		}
		fmt.Fprintln(w, line.String())
	}
}

func empty(cells []cell) bool {
	for _, c := range cells {
		if c.text != "" {
			return false
		}
	}
	return true
}

// lineTable prints rows that arrive one by one: on a terminal in aligned blocks
// with a heading, elsewhere separated by tabs.
type lineTable struct {
	app    *app
	header []string
	block  table
}

const blockRows = 50

func (t *lineTable) row(cells ...string) {
	if !t.app.outTerminal {
		t.app.printf("%s\n", strings.Join(cells, "\t"))
		return
	}
	if t.header != nil {
		t.block.row(t.header...)
		t.header = nil
	}
	t.block.row(cells...)
	if len(t.block.rows) >= blockRows {
		t.flush()
	}
}

func (t *lineTable) flush() {
	t.block.writeTo(t.app.out)
	t.block.rows = nil
}

// printJSON writes one document on one line.
func (a *app) printJSON(v any) error {
	encoder := json.NewEncoder(a.out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// jsonKV is a key and its value in JSON.
type jsonKV struct {
	Key            string  `json:"key"`
	KeyEncoding    string  `json:"key_encoding,omitempty"`
	Value          *string `json:"value,omitempty"`
	ValueEncoding  string  `json:"value_encoding,omitempty"`
	CreateRevision int64   `json:"create_revision"`
	ModRevision    int64   `json:"mod_revision"`
	Version        int64   `json:"version"`
	Lease          int64   `json:"lease"`
}

// encoded is a string for JSON, and its encoding if it is not text.
func encoded(b []byte) (s, encoding string) {
	if utf8.Valid(b) {
		return string(b), ""
	}
	return base64.StdEncoding.EncodeToString(b), "base64"
}

func toJSON(kv *kvv1.KeyValue, withValue bool) *jsonKV {
	if kv == nil {
		return nil
	}
	j := &jsonKV{
		CreateRevision: kv.GetCreateRevision(), ModRevision: kv.GetModRevision(),
		Version: kv.GetVersion(), Lease: kv.GetLease(),
	}
	j.Key, j.KeyEncoding = encoded(kv.GetKey())
	if withValue {
		value, encoding := encoded(kv.GetValue())
		j.Value, j.ValueEncoding = &value, encoding
	}
	return j
}

func toJSONs(kvs []*kvv1.KeyValue, withValues bool) []*jsonKV {
	all := make([]*jsonKV, 0, len(kvs))
	for _, kv := range kvs {
		all = append(all, toJSON(kv, withValues))
	}
	return all
}

// size writes a number of bytes for a person.
func size(n int64) string {
	const units = "KMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n)/1024, 0
	for ; f >= 1024 && unit < len(units)-1; unit++ {
		f /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", f, units[unit])
}

// plural writes a count with its noun.
func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
