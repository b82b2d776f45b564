package main

import (
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/reevehq/reeve/internal/datadir"
)

// TestCDISpecDirs: the folders of device specifications reach the runtime, those that everybody has by default.
func TestCDISpecDirs(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want []string
		err  string
	}{
		{nil, []string{"/etc/cdi", "/var/run/cdi"}, ""},
		{[]string{"--cdi-spec-dirs=/a,/b"}, []string{"/a", "/b"}, ""},
		{[]string{"--cdi-spec-dirs="}, []string{}, ""},
		{[]string{"--cdi-spec-dirs=cdi"}, nil, `--cdi-spec-dirs "cdi"`},
	} {
		var o nodeOptions
		f := pflag.NewFlagSet("cri", pflag.ContinueOnError)
		o.addRuntimeFlags(f, networkCNI)
		if err := f.Parse(tc.args); err != nil {
			t.Fatal(err)
		}
		dir, err := datadir.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		err = o.completeRuntime(dir.Agent())
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: %v, want an error that names %s", tc.args, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := nativeConfig(slog.New(slog.DiscardHandler), dir, &o, "", nil).CDIDirs; !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%q: %q, want %q", tc.args, got, tc.want)
		}
	}
}
