package stats

import (
	"testing"
	"time"
)

func TestAWalkIsGoodForAsLongAsItCost(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		time.Millisecond: 5 * time.Second, 40 * time.Millisecond: 20 * time.Second, time.Second: time.Minute,
	} {
		if got := duTTL(took); got != want {
			t.Errorf("a walk of %s is good for %s, want %s", took, got, want)
		}
	}
}
