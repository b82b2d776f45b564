package logread

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watcher says when something happened to a log: written, renamed, made. Events are coalesced.
type watcher struct {
	f      *os.File
	events chan struct{} // capacity 1; never closed
	done   chan struct{}
}

// newWatcher watches the folder of the log, which is enough: events of its files come with it.
func newWatcher(path string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("start inotify (fs.inotify.max_user_instances may be too low): %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	const mask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_CLOSE_WRITE
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), mask); err != nil {
		f.Close()
		return nil, fmt.Errorf("watch %q: %w", filepath.Dir(path), err)
	}
	w := &watcher{f: f, events: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w, nil
}

// run turns inotify's records into wake-ups. What they say does not matter: the files are looked at anew.
func (w *watcher) run() {
	defer close(w.done)
	buf := make([]byte, 16<<10)
	for {
		if _, err := w.f.Read(buf); err != nil {
			return // closed
		}
		select {
		case w.events <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) close() {
	w.f.Close()
	<-w.done
}
