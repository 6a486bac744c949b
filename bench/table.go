package main

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// writeTable gives a Markdown table whose columns line up in a terminal too.
// The first row is the header; the first column is text, the others are numbers.
func writeTable(rows [][]string) string {
	if len(rows) == 0 {
		return ""
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell), 3)
		}
	}
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	for n, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				cells[i] = cell + space
			} else {
				cells[i] = space + cell
			}
		}
		line(cells)
		if n == 0 {
			line(rule(widths))
		}
	}
	return b.String()
}

// rule is the line under the header; a colon on the right aligns to the right.
func rule(widths []int) []string {
	cells := make([]string, len(widths))
	for i, w := range widths {
		cells[i] = strings.Repeat("-", w)
		if i > 0 {
			cells[i] = cells[i][1:] + ":"
		}
	}
	return cells
}
