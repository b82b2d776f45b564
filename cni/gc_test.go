package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/reevehq/reeve/internal/podnet"
)

// collectWhileAdding runs GC again and again, which is told of the pods before only, while more are added, and fails where
// one of these loses something.
func collectWhileAdding(t *testing.T, n network, keep []string) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan error, 1)
	rounds := 0
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := n.GC(t.Context(), keep); err != nil {
				done <- err
				return
			}
			rounds++
		}
	}()
	var pods []pod
	for i := range 6 {
		pods = append(pods, addPod(t, n, fmt.Sprintf("late-%d", i)))
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if rounds == 0 {
		t.Fatal("nothing was collected meanwhile")
	}
	for _, p := range pods {
		if !exists(p.req.NetNS) {
			t.Errorf("the namespace of %s was collected", p.req.SandboxID)
		} else if err := n.Check(t.Context(), p.req, p.res); err != nil {
			t.Errorf("something of %s was collected: %v", p.req.SandboxID, err)
		}
		if err := errors.Join(n.Del(t.Context(), p.req), n.RemoveNamespace(t.Context(), p.req.NetNS)); err != nil {
			t.Error(err)
		}
	}
}

func TestBuiltinGCSparesWhatIsBegunMeanwhile(t *testing.T) {
	dir := t.TempDir()
	before := newBuiltin(t, dir, "10.244.3.0/24")
	for i := range 2 { // whose host ports take a while to remove
		addPod(t, before, fmt.Sprintf("leaked-%d", i), podnet.PortMapping{HostPort: uint16(8081 + i), ContainerPort: 8080, Protocol: "TCP"})
	}
	collectWhileAdding(t, newBuiltin(t, dir, "10.244.3.0/24"), nil)
}

func TestConflistGCSparesWhatIsBegunMeanwhile(t *testing.T) {
	bins := pluginDir(t)
	dir := t.TempDir()
	writeConf(t, dir, "10-pods.conflist", fmt.Sprintf(ptpConflist, dir+"/ipam"))
	before := newConflist(t, dir, bins)
	for i := range 2 {
		addPod(t, before, fmt.Sprintf("leaked-%d", i))
	}
	collectWhileAdding(t, newConflist(t, dir, bins), nil)
}

// Plugins of specification 1.1.0 collect themselves: whatever they are not told of, so also what is being added. This one
// does just that: its GC takes the files of sandboxes that are not named, and an ADD takes its time.
func TestConflistPluginsCollectWhileNothingIsAdded(t *testing.T) {
	pluginDir(t) // needs namespaces
	dir := t.TempDir()
	bins := filepath.Join(dir, "bin")
	if err := os.Mkdir(filepath.Join(dir, "given"), 0o755); err != nil {
		t.Fatal(err)
	}
	writePlugin(t, bins, "keeper", `#!/bin/sh
given=`+dir+`/given
case $CNI_COMMAND in
ADD) cat >/dev/null; : > $given/$CNI_CONTAINERID; sleep 0.02; echo '{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"10.9.0.2/32","interface":0}]}';;
DEL) cat >/dev/null; rm -f $given/$CNI_CONTAINERID;;
CHECK) cat >/dev/null; [ -e $given/$CNI_CONTAINERID ] || { echo '{"cniVersion":"1.1.0","code":100,"msg":"collected"}'; exit 1; };;
STATUS) cat >/dev/null;;
GC) conf=$(cat); echo >> `+dir+`/collected
  for f in $given/*; do case "$conf" in *"${f##*/}"*) ;; *) rm -f "$f";; esac; done;;
VERSION) cat >/dev/null; echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}';;
esac`)
	writeConf(t, dir, "10-pods.conflist", `{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"keeper"}]}`)
	c := newConflist(t, dir, bins)
	collectWhileAdding(t, c, nil)
	if err := c.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "collected")); err != nil || len(b) == 0 {
		t.Errorf("the plugins never collected: %v", err)
	}
}
