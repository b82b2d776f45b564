package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxHolders bounds how many processes are named, and with it the look through /proc.
const maxHolders = 3

// holder is a process that works below a mount.
type holder struct {
	PID  int
	Name string
}

func (h holder) String() string { return fmt.Sprintf("process %d (%s)", h.PID, h.Name) }

// holders finds processes with a working directory, root or open file below target, as far as this process may look.
func holders(proc, target string) []holder {
	ents, err := os.ReadDir(proc)
	if err != nil {
		return nil
	}
	var out []holder
	for _, e := range ents {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !holds(filepath.Join(proc, e.Name()), target) {
			continue
		}
		name, err := os.ReadFile(filepath.Join(proc, e.Name(), "comm"))
		if err != nil {
			continue // it ended meanwhile
		}
		out = append(out, holder{pid, strings.TrimSpace(string(name))})
		if len(out) == maxHolders {
			break
		}
	}
	return out
}

func holds(proc, target string) bool {
	for _, l := range []string{"cwd", "root"} {
		if to, err := os.Readlink(filepath.Join(proc, l)); err == nil && within(target, to) {
			return true
		}
	}
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(proc, "fd", fd.Name())); err == nil && within(target, to) {
			return true
		}
	}
	return false
}

func describe(hs []holder) string {
	if len(hs) == 0 {
		return "something that cannot be seen from here (another mount on it, or the kernel)"
	}
	names := make([]string, len(hs))
	for i, h := range hs {
		names[i] = h.String()
	}
	return strings.Join(names, ", ")
}
