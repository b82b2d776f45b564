package main

import (
	"os"
	"strings"
	"testing"

	"github.com/reevehq/reeve/internal/datadir"
)

// instanceDir is a data-dir in which earlier builds and this one's starts with those proxy modes have recorded themselves.
func instanceDir(t *testing.T, record string, modes ...string) datadir.Dir {
	t.Helper()
	folder, err := os.MkdirTemp("", "instance") // t.TempDir's is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	dir, err := datadir.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	if record != "" {
		if err := os.MkdirAll(dir.Agent(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(instanceFile(dir), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range modes {
		if err := instanceOf(&nodeOptions{ProxyMode: mode}).write(dir); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// `reeve cleanup` removes Service rules only where a proxy of ours has run, be it an earlier start's, and asks where nobody
// knows.
func TestInstanceRemembersThatAProxyRan(t *testing.T) {
	const silent, without = `{"rootDir": "/var/lib/kubelet"}`, `{"rootDir": "/var/lib/kubelet", "noProxy": true}`
	for _, c := range []struct {
		name, record string
		modes        []string
		want         string // remove, keep, or ask
	}{
		{"kubelet alone", "", []string{"none"}, "keep"},
		{"agent", "", []string{"iptables"}, "remove"},
		{"agent, then without a proxy", "", []string{"nftables", "none", "none"}, "remove"},
		{"without a proxy, then with one", "", []string{"none", "auto"}, "remove"},
		{"always without", "", []string{"none", "none"}, "keep"},
		{"an earlier build", silent, nil, "ask"},
		{"an earlier build, then without a proxy", silent, []string{"none", "none"}, "ask"},
		{"an earlier build, then with one", silent, []string{"none", "ipvs", "none"}, "remove"},
		{"an earlier build that told that it had none", without, nil, "keep"},
		{"the same, then without", without, []string{"none"}, "keep"},
		{"the same, then with one", without, []string{"iptables"}, "remove"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := instanceDir(t, c.record, c.modes...)
			inst, ran, err := readInstance(dir)
			if err != nil || !ran {
				t.Fatal(ran, err)
			}
			remove, err := inst.ownsServiceRules("")
			got := map[bool]string{true: "remove", false: "keep"}[remove]
			if err != nil {
				got = "ask"
			}
			if got != c.want {
				t.Errorf("cleanup would %s Service rules (%v), want %s", got, err, c.want)
			}
			for _, choice := range []string{"remove", "keep"} {
				if remove, err := inst.ownsServiceRules(choice); err != nil || remove != (choice == "remove") {
					t.Errorf("--service-rules=%s: %t, %v", choice, remove, err)
				}
			}
		})
	}
}

// What only the user can decide is asked for before anything is changed, and named with the flag that decides it.
func TestCleanupAsksWhoseServiceRulesTheyAre(t *testing.T) {
	dir := instanceDir(t, `{"rootDir": "/var/lib/kubelet"}`)
	for choice, want := range map[string]string{"": "--service-rules=keep", "maybe": `--service-rules "maybe" is unknown`, "keep": "", "remove": ""} {
		err := (&cleaning{serviceRules: choice}).check(dir.Root())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("--service-rules=%q: %v, want %q", choice, err, want)
		}
	}
	if err := (&cleaning{}).check(instanceDir(t, "", "iptables").Root()); err != nil {
		t.Error(err)
	}
	if err := (&cleaning{}).check(instanceDir(t, "").Root()); err != nil {
		t.Errorf("where no agent ever ran: %v", err)
	}
}
