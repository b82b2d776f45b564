package rolebin

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestUnknownPayloadNamesTheFix(t *testing.T) {
	if _, err := Unpack(t.TempDir(), "no-such-program"); !errors.Is(err, ErrMissing) {
		t.Errorf("Unpack = %v, want ErrMissing", err)
	}
	if err := Exec("no-such-program", nil, nil); !errors.Is(err, ErrMissing) {
		t.Errorf("Exec = %v, want ErrMissing", err)
	}
}

func TestPruneRemovesOtherBuildsOnly(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "0123456789ab")
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, ControlPlane), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	kept, err := Unpack(dir, ControlPlane)
	if err != nil && !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	if err := Prune(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("another build's folder is still there: %v", err)
	}
	if kept != "" {
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("this build's program went: %v", err)
		}
	}
	if err := Prune(filepath.Join(dir, "absent")); err != nil {
		t.Errorf("Prune of an absent folder: %v", err)
	}
}
