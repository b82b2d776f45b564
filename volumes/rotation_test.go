package volumes

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/reevehq/reeve/internal/testns"
)

// A token's file gets the next token when four fifths of its life are over, though nothing else happens to the pod; while
// the API server does not answer, the old one stays, and the next comes soon after it answers again.
func TestTokenIsRenewedInItsFile(t *testing.T) {
	testns.Need(t)
	synctest.Test(t, func(t *testing.T) {
		tokens := &fakeTokens{life: 10 * time.Minute}
		m := newTestManager(t, func(c *Config) { c.Objects, c.Tokens = objectsForAll(), tokens })
		pod := allKinds()
		m.SetPod(pod)
		if err := m.WaitMounted(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
		vols, _, _ := m.Mounts(pod.UID)
		file := filepath.Join(vols["proj"].HostPath, "token")
		holds := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if !reads(file, want)() {
				t.Errorf("after %s the file does not hold %q", after, want)
			}
		}
		holds(0, "ns/robot#1")
		holds(7*time.Minute+45*time.Second, "ns/robot#1") // 15 s before four fifths: the jitter is 10 s at most
		holds(20*time.Second, "ns/robot#2")
		tokens.fail.Store(true)
		holds(9*time.Minute, "ns/robot#2")
		tokens.fail.Store(false)
		holds(30*time.Second, "ns/robot#3")
	})
}
