package cni

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/reevehq/reeve/internal/podnet"
)

// FuzzConflist: whatever lies in the configuration folder, it is a network with plugins that have a type, or an error.
func FuzzConflist(f *testing.F) {
	for _, s := range []string{
		`{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp","ipam":{"type":"host-local"}},{"type":"portmap","capabilities":{"portMappings":true}}]}`,
		`{"cniVersion":"0.3.1","name":"n","type":"bridge"}`, `{"name":"n","plugins":[]}`, `{"cniVersion":"1.1.0","name":"n","disableCheck":"true","plugins":[{"type":""}]}`,
		`{"cniVersion":"1.1.0","cniVersions":["x"],"name":"n","plugins":[{"type":"../../bin/sh"}]}`, `[]`, `{`, ``, "\x00", `{"plugins":[null]}`, `{"plugins":3}`,
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, isList bool) {
		name := "10-x.conf"
		if isList {
			name += "list"
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := loadFile(file)
		if err != nil {
			return
		}
		if len(list.Plugins) == 0 {
			t.Errorf("%q is a network without plugins", data)
		}
		for _, p := range list.Plugins {
			if p == nil || p.Network == nil || p.Network.Type == "" {
				t.Errorf("%q is a network whose plugin has no type", data)
			}
		}
		// What is kept of it, DEL must be able to read.
		if _, err := libcni.ConfListFromBytes(list.Bytes); err != nil {
			t.Errorf("%q became %q, which is none: %v", data, list.Bytes, err)
		}
	})
}

// FuzzAnnotations: a bandwidth annotation is a positive rate or an error.
func FuzzAnnotations(f *testing.F) {
	for _, s := range []string{"1M", "10Mi", "-1", "", "1e99", "0", "x", "9223372036854775808"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rt, err := runtimeConf(podnet.Request{SandboxID: "a", NetNS: "/n", Annotations: map[string]string{ingressBandwidth: s}})
		if err != nil {
			return
		}
		if rate := rt.CapabilityArgs["bandwidth"].(map[string]any)["ingressRate"].(int64); rate <= 0 {
			t.Errorf("%q became the rate %d", s, rate)
		}
	})
}
