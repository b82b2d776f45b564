package dropin_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/reevehq/reeve/internal/dropin"
	"github.com/reevehq/reeve/internal/dropin/kubeletconfig"
	"github.com/reevehq/reeve/internal/dropin/kubeproxyconfig"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/DROP-IN.md")

// The tables of docs/DROP-IN.md are written from the tables that the programs work by: -update writes them.
func TestDocumentSaysWhatTheTablesSay(t *testing.T) {
	const path = "../../docs/DROP-IN.md"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for name, table := range map[string]string{
		"kubelet":    dropin.Markdown(kubeletconfig.Fields, kubeletconfig.Flags),
		"kube-proxy": dropin.Markdown(kubeproxyconfig.Fields, kubeproxyconfig.Flags),
	} {
		begin, end := "<!-- table "+name+" -->\n", "<!-- end "+name+" -->"
		before, rest, ok := strings.Cut(text, begin)
		have, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("%s has no place for the table of %s, between %q and %q", path, name, begin, end)
		}
		if have != table && !*update {
			t.Errorf("the table of %s is stale; run go test ./internal/dropin -update", name)
		}
		text = before + begin + table + end + after
	}
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
