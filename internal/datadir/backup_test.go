package datadir

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBackupCopiesEtcdAndKeepsThree(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if got, err := d.BackupEtcd("v1.36.0+reeve.1", now); got != "" || err != nil {
		t.Fatalf("without data: %q, %v", got, err)
	}
	db := filepath.Join(d.Server(), "etcd", "member", "snap", "db")
	if err := os.MkdirAll(filepath.Dir(db), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(db, []byte("pages"), 0o600); err != nil {
		t.Fatal(err)
	}
	var last string
	for i := range 5 {
		if last, err = d.BackupEtcd("v1.36.0+reeve.1", now.Add(time.Duration(i)*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(last, "member", "snap", "db")); string(b) != "pages" {
		t.Errorf("the copy holds %q, %v", b, err)
	}
	entries, err := os.ReadDir(filepath.Dir(last))
	if err != nil || len(entries) != 3 || entries[2].Name() != filepath.Base(last) {
		t.Errorf("copies: %v, %v; want the newest three", entries, err)
	}
}
