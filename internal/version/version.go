package version

import (
	"fmt"
	"strconv"
	"strings"
)

// Kubernetes is the API version that reeve speaks, and what nodes and /version report together with the suffix.
var (
	// gitVersion is "v<kubernetes>+reeve.<n>"; set with -ldflags -X. It must parse as a semantic version: clients
	// compare it.
	gitVersion = "v1.36.6+reeve.0"
	gitCommit  = "unknown"
	buildDate  = "1970-01-01T00:00:00Z"
)

// Git is the full version, for example "v1.36.6+reeve.1".
func Git() string { return gitVersion }

// Commit is the source's commit, or "unknown".
func Commit() string { return gitCommit }

// BuildDate is RFC 3339.
func BuildDate() string { return buildDate }

// Number orders builds: (major, minor, patch, reeve), so that a data-dir of a newer build is recognised.
type Number [4]int

// Parse reads "vMAJOR.MINOR.PATCH+reeve.N[-suffix]".
func Parse(s string) (Number, error) {
	var n Number
	core, build, _ := strings.Cut(strings.TrimPrefix(s, "v"), "+reeve.")
	parts := strings.Split(core, ".")
	if len(parts) != 3 || build == "" {
		return n, fmt.Errorf("version %q is not of the form v1.36.0+reeve.1", s)
	}
	build, _, _ = strings.Cut(build, "-")
	for i, p := range append(parts, build) {
		v, err := strconv.Atoi(p)
		if err != nil || v < 0 {
			return n, fmt.Errorf("version %q is not of the form v1.36.0+reeve.1", s)
		}
		n[i] = v
	}
	return n, nil
}

// Compare is negative when a is older than b, zero when they are equal, positive when a is newer.
func Compare(a, b Number) int {
	for i := range a {
		if a[i] != b[i] {
			return a[i] - b[i]
		}
	}
	return 0
}
