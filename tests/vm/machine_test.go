package vm

import (
	"strings"
	"testing"
)

// The machine is what the tests here need: systemd, cgroup v2 with its controllers, IPVS, dummy devices, no network.
func TestMachineHasWhatTheHostLacks(t *testing.T) {
	m := machine(t)
	r := sh(t, m, `cat /proc/1/comm; stat -fc %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers
		modprobe -a ip_vs dummy && ls /proc/net/ip_vs; ls /sys/class/net; cat /sys/module/apparmor/parameters/enabled; uname -r; systemd-analyze; systemctl --failed --no-legend`)
	for _, want := range []string{"systemd\n", "cgroup2fs\n", "cpu ", "memory", "/proc/net/ip_vs\nlo\n", "Y\n"} {
		if !strings.Contains(r, want) {
			t.Errorf("no %q in:\n%s", want, r)
		}
	}
	if got, err := m.Run(t.Context(), Command{Args: []string{"sh", "-c", "echo out; echo err >&2; exit 7"}}); err != nil || got.Code != 7 || got.Output != "out\nerr\n" {
		t.Errorf("ran to %+v, %v", got, err)
	}
	if _, err := m.Run(t.Context(), Command{Args: []string{"/no/such/program"}}); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("a missing program: %v", err)
	}
	t.Logf("\n%s", r)
}

func TestMirrorIsReadFromBothFormats(t *testing.T) {
	for sources, want := range map[string]string{
		"deb http://a.example/debian bookworm main contrib\n":                                                          "http://a.example/debian",
		"# deb http://a.example/debian bookworm main\ndeb [signed-by=/x arch=amd64] https://b.example/d bookworm main": "https://b.example/d",
		"deb [ arch=amd64 ] https://c.example/d bookworm main":                                                         "https://c.example/d",
		"deb http://a.example/ubuntu jammy main":                                                                       "",
		"Types: deb\n# http://old.example\nURIs: http://d.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://s.example\nSuites: bookworm-security\nComponents: main\n": "http://d.example/debian",
		"Types: deb-src\nURIs: http://d.example/debian\nSuites: bookworm\nComponents: main\n":                                                                                                                       "",
	} {
		if got := debianOf(sources); got != want {
			t.Errorf("%q: %q, want %q", sources, got, want)
		}
	}
}
