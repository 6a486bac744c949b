package wholefile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write replaces a file, which only its owner may read, as a whole. The directory must
// be there. After an error the file is as it was.
func Write(path string, text []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // for its owner alone
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) //nolint:errcheck // It has been renamed.
	_, err = file.Write(text)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
