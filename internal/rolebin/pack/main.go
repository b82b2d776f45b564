// Command pack writes a file into internal/rolebin's payload: <dir>/<name>.zst and <dir>/<name>.sha256. The output
// depends on the input alone, so builds are reproducible; an unchanged input is left as it is.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

func main() {
	dir := flag.String("dir", "internal/rolebin/payload", "folder to write to")
	name := flag.String("name", "", "name of the payload; the input's base name when empty")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: pack [-dir DIR] [-name NAME] FILE")
		os.Exit(2)
	}
	if err := pack(*dir, *name, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(dir, name, path string) error {
	if name == "" {
		name = filepath.Base(path)
	}
	plain, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(plain)
	line := append([]byte(hex.EncodeToString(sum[:])), '\n')
	out := filepath.Join(dir, name)
	if old, err := os.ReadFile(out + ".sha256"); err == nil && bytes.Equal(old, line) {
		if _, err := os.Stat(out + ".zst"); err == nil {
			return nil
		}
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return err
	}
	if err := os.WriteFile(out+".zst", enc.EncodeAll(plain, nil), 0o644); err != nil {
		return err
	}
	return os.WriteFile(out+".sha256", line, 0o644)
}
