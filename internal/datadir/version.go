package datadir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/reevehq/reeve/internal/version"
)

// Formats are the on-disk formats that this build writes. A number grows when an older build could not read what is
// written; a build reads its own number and the one before.
var Formats = map[string]int{"agent": 1, "server": 1, "logpump": 1}

// Stamp is what <data-dir>/version holds.
type Stamp struct {
	Version string         `json:"version"`
	Formats map[string]int `json:"formats"`
}

// ReadStamp answers the recorded stamp, or the zero Stamp for a data-dir that was never used.
func (d Dir) ReadStamp() (Stamp, error) {
	var s Stamp
	b, err := os.ReadFile(d.stampFile())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the version of --data-dir: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%q is damaged (%w); restore it from a backup, or remove it if this build wrote the data", d.stampFile(), err)
	}
	return s, nil
}

// CheckStamp refuses a data-dir that a newer build has written in a format that this build does not know, and tells
// whether the recorded build is older than this one.
func (d Dir) CheckStamp() (upgrade bool, err error) {
	s, err := d.ReadStamp()
	if err != nil || s.Version == "" {
		return false, err
	}
	for name, theirs := range s.Formats {
		if ours := Formats[name]; theirs > ours {
			return false, fmt.Errorf("--data-dir %q was written by reeve %s (%s format %d, this build %s knows %d); run that version or newer, or restore the snapshot taken before the upgrade",
				d.root, s.Version, name, theirs, version.Git(), ours)
		}
	}
	theirs, err := version.Parse(s.Version)
	if err != nil {
		return false, fmt.Errorf("%q: %w", d.stampFile(), err)
	}
	ours, err := version.Parse(version.Git())
	if err != nil {
		return false, err
	}
	return version.Compare(theirs, ours) < 0, nil
}

// WriteStamp records this build, atomically.
func (d Dir) WriteStamp() error {
	b, err := json.Marshal(Stamp{Version: version.Git(), Formats: Formats})
	if err != nil {
		return err
	}
	return WriteFile(d.stampFile(), append(b, '\n'), 0o600)
}

func (d Dir) stampFile() string { return filepath.Join(d.root, "version") }

// WriteFile replaces path atomically: a reader, or a crash, sees the old content or the new.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return nil
}
