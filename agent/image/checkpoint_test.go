package image

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker"
)

func TestBackOffSurvives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, _, m := setup()
		r.broken = true
		ensure := func(m *Manager) *podworker.Reason {
			_, err := m.Ensure(t.Context(), pod("p"), "c", "img:v1", v1.PullIfNotPresent)
			var reason *podworker.Reason
			errors.As(err, &reason)
			return reason
		}
		ensure(m)
		time.Sleep(10 * time.Second)
		ensure(m)
		_, _, _, next := setup()
		next.cfg.Service = r
		if err := next.Restore(m.Checkpoint()); err != nil {
			t.Fatal(err)
		}
		pulls := len(r.pulls)
		if got := ensure(next); got == nil || got.Reason != "ImagePullBackOff" || got.RetryAfter != 20*time.Second || len(r.pulls) != pulls {
			t.Fatalf("after a restart: %+v, %d more pulls", got, len(r.pulls)-pulls)
		}
		time.Sleep(20 * time.Second)
		ensure(next)
		if got := ensure(next); got == nil || got.RetryAfter != 40*time.Second {
			t.Errorf("the back-off did not go on doubling: %+v", got)
		}
		for _, bad := range []string{"", "{}", `{"version":9}`} {
			if next.Restore([]byte(bad)) == nil {
				t.Errorf("%q was taken", bad)
			}
		}
	})
}
