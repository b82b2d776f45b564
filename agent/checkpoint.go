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

// saveDelay gathers changes of probe results into one write.
const saveDelay = 500 * time.Millisecond

// probeSaver keeps the prober's results on disk, for the next process.
type probeSaver struct {
	path string
	take func() []byte
	log  *slog.Logger
	kick chan struct{}
}

func (s *probeSaver) changed() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *probeSaver) run(ctx context.Context) error {
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

func (s *probeSaver) save() {
	if err := writeAtomic(s.path, s.take(), 0o600); err != nil {
		s.log.Warn("Failed to save probe results", logkey.Err, err)
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
