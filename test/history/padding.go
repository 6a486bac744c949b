package history

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// A recording of large values would not fit into memory, so they are made of a
// short unique text, a tilde and dots, and recorded as the text, a tilde and the
// number of dots.

const (
	padding = '.'
	// minPadding is above the length of any value that is not padded.
	minPadding = 1024
)

// Padded is how a value with so many bytes of padding, at least 1,024, is recorded.
func Padded(text string, bytes int) string { return text + "~" + strconv.Itoa(bytes) }

// Expand gives a recorded value as it is sent.
func Expand(value string) []byte {
	text, number, found := strings.Cut(value, "~")
	n, err := strconv.Atoi(number)
	if !found || err != nil {
		return []byte(value)
	}
	return append([]byte(text+"~"), bytes.Repeat([]byte{padding}, n)...)
}

// Shorten gives a value that was received as it is recorded.
func Shorten(value []byte) string {
	if len(value) < minPadding {
		return string(value)
	}
	text, dots, _ := bytes.Cut(value, []byte("~"))
	if len(bytes.Trim(dots, string(padding))) > 0 {
		return fmt.Sprintf("%s~damaged(%d)", text, len(dots))
	}
	return Padded(string(text), len(dots))
}
