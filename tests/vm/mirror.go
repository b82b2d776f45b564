package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// mirror is where this host's apt takes Debian from.
func mirror() (string, error) {
	files, _ := filepath.Glob("/etc/apt/sources.list.d/*.sources")
	lists, _ := filepath.Glob("/etc/apt/sources.list.d/*.list")
	for _, f := range append(append(files, "/etc/apt/sources.list"), lists...) {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if uri := debianOf(string(b)); uri != "" {
			return uri, nil
		}
	}
	return "", fmt.Errorf("no source of Debian %s in /etc/apt: the virtual machine's disk is made of its packages", suite)
}

// debianOf finds the address that serves the suite's main part, in either format of apt's sources.
func debianOf(sources string) string {
	for stanza := range strings.SplitSeq(sources, "\n\n") {
		fields := map[string][]string{}
		for line := range strings.Lines(stanza) {
			line = strings.TrimSpace(line)
			if name, value, ok := strings.Cut(line, ":"); ok && !strings.ContainsAny(name, " #[") {
				fields[strings.ToLower(name)] = strings.Fields(value)
			}
			// deb [options] URI suite component…
			words := strings.Fields(line)
			if len(words) == 0 || words[0] != "deb" {
				continue
			}
			words = words[1:]
			if strings.HasPrefix(words[0], "[") {
				for len(words) > 0 && !strings.HasSuffix(words[0], "]") {
					words = words[1:]
				}
				words = words[min(1, len(words)):]
			}
			if len(words) > 2 && words[1] == suite && has(words[2:], "main") {
				return words[0]
			}
		}
		if has(fields["types"], "deb") && has(fields["suites"], suite) && has(fields["components"], "main") && len(fields["uris"]) > 0 {
			return fields["uris"][0]
		}
	}
	return ""
}

func has(words []string, word string) bool {
	for _, w := range words {
		if w == word {
			return true
		}
	}
	return false
}

// proxies are the environment variables that make wget, which debootstrap uses, take apt's way.
func proxies() []string {
	var out []string
	for _, scheme := range []string{"http", "https"} {
		b, err := exec.Command("apt-config", "shell", "P", "Acquire::"+scheme+"::Proxy").Output()
		if err != nil {
			continue
		}
		// P='http://proxy:3128/'
		if _, value, ok := strings.Cut(strings.TrimSpace(string(b)), "="); ok {
			if value = strings.Trim(value, "'"); value != "" && value != "DIRECT" {
				out = append(out, scheme+"_proxy="+value)
			}
		}
	}
	return out
}
