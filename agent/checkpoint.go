package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/reevehq/reeve/internal/logkey"
)

// saveDelay gathers changes into one write.
const saveDelay = 500 * time.Millisecond

// saver keeps what neither the runtime nor the API could tell the next process, in a file.
type saver struct {
	path, what string
	take       func() []byte
	log        *slog.Logger
	kick       chan struct{}
}

func newSaver(path, what string, log *slog.Logger) *saver {
	return &saver{path: path, what: what, log: log, kick: make(chan struct{}, 1)}
}

// restore gives the file's content to read. A missing file is nothing, a bad one is said and passed over.
func (s *saver) restore(read func([]byte) error) {
	b, err := os.ReadFile(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err == nil {
		err = read(b)
	}
	if err != nil {
		s.log.Warn("Failed to read checkpoint, beginning afresh", "what", s.what, logkey.Path, s.path, logkey.Err, err)
	}
}

func (s *saver) changed() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *saver) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			s.save()
			return nil
		case <-s.kick:
		}
		select {
		case <-ctx.Done():
		case <-time.After(saveDelay):
		}
		s.save()
	}
}

func (s *saver) save() {
	if err := writeAtomic(s.path, s.take(), 0o600); err != nil {
		s.log.Warn("Failed to save checkpoint", "what", s.what, logkey.Err, err)
	}
}

// writeAtomic replaces path as a whole.
func writeAtomic(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
