package agent

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestOneDeletionIsOneStop: a preStop hook was run twice when the pod was seen again more than two seconds after its
// deletion, since the second look gave it a shorter grace.
func TestOneDeletionIsOneStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(700 * time.Millisecond) // the timestamp is cut to seconds
		p := &v1.Pod{}
		p.UID = "u"
		at := metav1.NewTime(time.Now().Add(30 * time.Second)).Rfc3339Copy()
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &at, ptr.To[int64](30)
		var d deletions
		first := d.of(p)
		if left := time.Until(first.Deadline()); left != 30*time.Second {
			t.Errorf("the pod has %s left, want all of its grace", left)
		}
		time.Sleep(5 * time.Second)
		if again := d.of(p); again != first {
			t.Errorf("seen again: %+v, at first %+v", again, first)
		}
		shorter := metav1.NewTime(time.Now().Add(time.Second)).Rfc3339Copy()
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &shorter, ptr.To[int64](1)
		if again := d.of(p); !again.Deadline().Before(first.Deadline()) {
			t.Error("a shorter grace does not shorten the stop")
		}
	})
}
