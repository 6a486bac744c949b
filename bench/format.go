package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// perSecond writes a rate with three significant digits: the rest is noise.
func perSecond(v float64) string { return thousands(significant(v)) + "/s" }

// milliseconds and seconds write a time given in seconds.
func milliseconds(v float64) string { return short(v*1000) + " ms" }
func seconds(v float64) string      { return short(v) + " s" }

// mebibytes writes a size given in bytes.
func mebibytes(v float64) string { return short(v/(1<<20)) + " MiB" }

func count(v float64) string { return thousands(v) }

// significant rounds to three significant digits.
func significant(v float64) float64 {
	if v == 0 {
		return 0
	}
	unit := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-2)
	return math.Round(v/unit) * unit
}

// short writes three significant digits and no more than two decimals.
func short(v float64) string {
	decimals := 2
	for limit := 10.0; decimals > 0 && math.Abs(v) >= limit; limit *= 10 {
		decimals--
	}
	if decimals == 0 {
		return thousands(significant(v))
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// thousands writes a whole number with commas.
func thousands(v float64) string {
	digits := strconv.FormatFloat(math.Abs(math.Round(v)), 'f', 0, 64)
	var groups []string
	for len(digits) > 3 {
		groups = append([]string{digits[len(digits)-3:]}, groups...)
		digits = digits[:len(digits)-3]
	}
	groups = append([]string{digits}, groups...)
	if v <= -0.5 {
		groups[0] = "-" + groups[0]
	}
	return strings.Join(groups, ",")
}

// String says a target in words.
func (t Target) String() string {
	switch t.Kind {
	case ratioAtLeast:
		return fmt.Sprintf("at least %g×", t.Value)
	case ratioAtMost:
		return fmt.Sprintf("at most %g×", t.Value)
	case valueAtMost:
		return fmt.Sprintf("at most %g", t.Value)
	}
	return ""
}

// Met tells if a target is met, by Baton's value and its ratio to etcd's.
func (t Target) Met(value, ratio float64) bool {
	switch t.Kind {
	case ratioAtLeast:
		return ratio >= t.Value
	case ratioAtMost:
		return ratio <= t.Value
	case valueAtMost:
		return value <= t.Value
	}
	return true
}
