package client

// endOfKeys as a range's end means every key from its start on.
const endOfKeys = "\x00"

// Keys names one key or a range of keys. The zero value names nothing.
type Keys struct {
	first, end string
}

// Key names one key.
func Key(key string) Keys {
	return Keys{first: key}
}

// Prefix names every key that starts with prefix; with "" every key there is.
func Prefix(prefix string) Keys {
	if prefix == "" {
		return Keys{first: "\x00", end: endOfKeys}
	}
	return Keys{first: prefix, end: prefixEnd(prefix)}
}

// Between names the keys from first on and before end; with end "" to the last
// key there is.
func Between(first, end string) Keys {
	if first == "" {
		first = "\x00"
	}
	if end == "" {
		end = endOfKeys
	}
	return Keys{first: first, end: end}
}

// prefixEnd is the first key after all keys with the prefix.
func prefixEnd(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return endOfKeys
}

func (k Keys) check() error {
	if k.first == "" {
		return invalid("a key must not be empty")
	}
	// A bound may be the key after the longest one. What is larger than a message
	// would fail on the way, without a reason, however often it is repeated.
	if n := max(len(k.first), len(k.end)); n > maxKeyBytes+1 {
		return tooLarge("key", maxKeyBytes, n)
	}
	return nil
}

func (k Keys) endBytes() []byte {
	if k.end == "" {
		return nil
	}
	return []byte(k.end)
}
