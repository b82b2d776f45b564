package main

import (
	"os"
	"testing"

	"github.com/reevehq/reeve/internal/datadir"
)

// `reeve cleanup` removes Service rules only where a proxy of ours has run, be it an earlier start's.
func TestInstanceRemembersThatAProxyRan(t *testing.T) {
	for _, c := range []struct {
		name  string
		modes []string
		want  bool
	}{
		{"kubelet alone", []string{"none"}, true},
		{"agent", []string{"iptables"}, false},
		{"agent, then without a proxy", []string{"nftables", "none", "none"}, false},
		{"without a proxy, then with one", []string{"none", "auto"}, false},
		{"always without", []string{"none", "none"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder, err := os.MkdirTemp("", "instance") // t.TempDir's is too long for sockets
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(folder)
			dir, err := datadir.Open(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, mode := range c.modes {
				if err := instanceOf(&nodeOptions{ProxyMode: mode}).write(dir); err != nil {
					t.Fatal(err)
				}
			}
			if got, ran, err := readInstance(dir); err != nil || !ran || got.NoProxy != c.want {
				t.Errorf("NoProxy = %t, %t, %v; want %t", got.NoProxy, ran, err, c.want)
			}
		})
	}
}
