package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/batondb/baton/replication"
)

// replacing is the directory in which data is prepared that takes the place of
// what the volume has. It is complete once there is a marker in it.
const replacing = "replacing"

// Replace exchanges the volume's data for what prepare writes into an empty
// directory, under a new member id of the same pod, which next completes. The
// old data is set aside. A crash leaves the old data or the new.
func (v *Volume) Replace(next func(*Identity), prepare func(dir string, id Identity) error) error {
	dir := filepath.Join(v.dir, replacing)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	v.writing.Lock()
	defer v.writing.Unlock()
	pod := replication.MemberID(v.Identity().MemberID).Pod()
	id := Identity{Format: formatVersion, MemberID: pod + "/" + uuid.NewString(), Stage: Data}
	next(&id)
	if err := prepare(dir, id); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	if err := writeMarker(dir, id); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	if err := v.finishReplacing(pod); err != nil {
		return err
	}
	v.set(id)
	return nil
}

// finishReplacing moves what Replace has prepared into place, or removes what
// it has not finished. Each step can be repeated; the new marker comes last.
// Nothing is moved or removed unless both are the pod's.
func (v *Volume) finishReplacing(pod string) error {
	dir := filepath.Join(v.dir, replacing)
	old, err := readOf(v.dir, pod)
	if err != nil {
		return err
	}
	next, err := readOf(dir, pod)
	if err != nil {
		return fmt.Errorf("%s: %w", replacing, err)
	}
	if next.MemberID == "" {
		return os.RemoveAll(dir)
	}
	if old.MemberID != "" {
		_, unique, _ := strings.Cut(old.MemberID, "/")
		if err := v.setAside("replaced-" + unique); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == markerName {
			continue
		}
		if err := os.Rename(filepath.Join(dir, e.Name()), filepath.Join(v.dir, e.Name())); err != nil {
			return fmt.Errorf("put data into place: %w", err)
		}
	}
	if err := syncDir(v.dir); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, markerName), filepath.Join(v.dir, markerName)); err != nil {
		return fmt.Errorf("put data into place: %w", err)
	}
	return errors.Join(syncDir(v.dir), os.RemoveAll(dir))
}
