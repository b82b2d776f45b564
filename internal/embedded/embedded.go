package embedded

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// Names of the images that reeve carries. They exist nowhere else, so nothing ever pulls them.
const (
	PauseRef = "localhost/reeve-pause:v1"
	HelloRef = "localhost/reeve-hello:v1"
)

// Files that internal/imagebuild makes in files/.
const (
	PauseFile   = "pause.tar"
	HelloFile   = "hello.tar"
	LogpumpFile = "logpump"
)

//go:embed all:files
var files embed.FS

// ErrNotBuilt says that the binary was compiled without its parts.
type ErrNotBuilt struct{ File string }

func (e ErrNotBuilt) Error() string {
	return fmt.Sprintf("this binary carries no %s: it was compiled without `make build` (go run ./internal/imagebuild -o internal/embedded/files)", e.File)
}

func file(name string) ([]byte, error) {
	data, err := files.ReadFile("files/" + name)
	if err != nil {
		return nil, ErrNotBuilt{File: name}
	}
	return data, nil
}

// PauseArchive returns the OCI archive of PauseRef, or ErrNotBuilt.
func PauseArchive() ([]byte, error) { return file(PauseFile) }

// HelloArchive returns the OCI archive of HelloRef, or ErrNotBuilt.
func HelloArchive() ([]byte, error) { return file(HelloFile) }

// ExtractLogpump makes sure that an executable copy of logpump lies under dir, in a folder named after its content, and
// returns its path. A running logpump of another version keeps its own file. The folder of a version is never changed
// in place, so calling this again, or from two processes at once, is safe.
func ExtractLogpump(dir string) (string, error) {
	data, err := file(LogpumpFile)
	if err != nil {
		return "", err
	}
	return Extract(dir, LogpumpFile, data)
}

// Extract writes data as dir/<hash>/name, executable, unless it is there already, and returns that path.
func Extract(dir, name string, data []byte) (string, error) {
	sum := sha256.Sum256(data)
	folder := filepath.Join(dir, hex.EncodeToString(sum[:8]))
	path := filepath.Join(folder, name)
	if st, err := os.Stat(path); err == nil && st.Size() == int64(len(data)) && st.Mode()&0o111 != 0 {
		return path, nil
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	tmp, err := os.CreateTemp(folder, "."+name+"-")
	if err != nil {
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	if _, err := tmp.Write(data); err != nil {
		tmp.Close()
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	if err := tmp.Chmod(0o755); err != nil {
		tmp.Close()
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	if err := tmp.Close(); err != nil {
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return "", fmt.Errorf("extract %s: %w", name, err)
	}
	return path, nil
}
