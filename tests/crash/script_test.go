package crash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pluginDir is where Debian's containernetworking-plugins puts them.
const pluginDir = "/usr/lib/cni"

// scripts are the programs that stand before the real ones. Each passes points by name ("ptp-ADD-begin"); a point that a
// test has armed stops, fails or waits there.
type scripts struct {
	t   testing.TB
	dir string // <world>/points
}

const pointFunction = `#!/bin/sh
P=%s
point() {
	echo "$1" >> "$P/log"
	[ -e "$P/armed/$1" ] && mv "$P/armed/$1" "$P/hit/$1" 2>/dev/null || return 0
	read action arg < "$P/hit/$1"
	case "$action" in
	fail) echo "ordered failure at $1" >&2; exit 1 ;;
	slow) sleep $arg ;;
	block) while [ -d "$P/armed" ] && [ ! -e "$P/free/$1" ]; do sleep 0.02; done ;;
	esac
}
`

// A plugin keeps its input for the real one, and its answer until the point after it was passed.
const pluginScript = `
in=$(cat)
point NAME-$CNI_COMMAND-begin
out=$(printf '%s' "$in" | REAL)
rc=$?
[ $rc = 0 ] && point NAME-$CNI_COMMAND-end
printf '%s' "$out"
exit $rc
`

const runcScript = `
for a; do
	case "$a" in create|start|kill|delete|exec|state) sub=$a; break ;; esac
done
point runc-$sub-begin
REAL "$@"
rc=$?
[ $rc = 0 ] && point runc-$sub-end
exit $rc
`

const shimScript = `
for sub; do :; done
point shim-$sub-begin
REAL "$@"
rc=$?
[ $rc = 0 ] && point shim-$sub-end
exit $rc
`

func newScripts(t testing.TB, world, runc, shim string) scripts {
	t.Helper()
	s := scripts{t: t, dir: filepath.Join(world, "points")}
	bin := filepath.Join(world, "bin")
	for _, d := range []string{bin, s.dir + "/armed", s.dir + "/hit", s.dir + "/free"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	head := fmt.Sprintf(pointFunction, s.dir)
	for name, body := range map[string]string{
		"crash-ptp":                fill(pluginScript, "ptp", pluginDir+"/ptp"),
		"crash-portmap":            fill(pluginScript, "portmap", pluginDir+"/portmap"),
		"crash-runc":               fill(runcScript, "", runc),
		"containerd-shim-crash-v2": fill(shimScript, "", shim),
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(head+body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func fill(body, name, real string) string {
	var out []byte
	for i := 0; i < len(body); i++ {
		switch {
		case len(body)-i >= 4 && body[i:i+4] == "NAME":
			out, i = append(out, name...), i+3
		case len(body)-i >= 4 && body[i:i+4] == "REAL":
			out, i = append(out, real...), i+3
		default:
			out = append(out, body[i])
		}
	}
	return string(out)
}

// arm makes the next pass of a point do what action says: "block", "fail", "slow 0.5".
func (s scripts) arm(point, action string) {
	s.t.Helper()
	os.Remove(filepath.Join(s.dir, "hit", point))
	os.Remove(filepath.Join(s.dir, "free", point))
	tmp := filepath.Join(s.dir, "new")
	if err := errors.Join(os.WriteFile(tmp, []byte(action+"\n"), 0o644), os.Rename(tmp, filepath.Join(s.dir, "armed", point))); err != nil {
		s.t.Fatal(err)
	}
}

// passed forgets and returns the points that were passed, in order.
func (s scripts) passed() []string {
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return nil
	}
	os.Remove(filepath.Join(s.dir, "log"))
	return strings.Fields(string(b))
}

// disarm takes a point back that nobody has passed.
func (s scripts) disarm(point string) { os.Remove(filepath.Join(s.dir, "armed", point)) }

func (s scripts) hit(point string) bool {
	_, err := os.Stat(filepath.Join(s.dir, "hit", point))
	return !errors.Is(err, fs.ErrNotExist)
}

// free lets whoever waits at the point go on.
func (s scripts) free(point string) {
	if err := os.WriteFile(filepath.Join(s.dir, "free", point), nil, 0o644); err != nil {
		s.t.Error(err)
	}
}
