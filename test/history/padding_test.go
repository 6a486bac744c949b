package history

import "testing"

func TestPadding(t *testing.T) {
	for _, value := range []string{"", "plain", Padded("c1-7", 5000)} {
		if got := Shorten(Expand(value)); got != value {
			t.Errorf("%q comes back as %q", value, got)
		}
	}
	damaged := Expand(Padded("c1-7", 5000))
	damaged[3000] = 'x'
	if got := Shorten(damaged); got == Padded("c1-7", 5000) {
		t.Error("damage was not seen")
	}
}
