package allocator

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A leak is taken back within minutes, as passes come sooner while one is suspected, and Run leaves nothing behind.
func TestRunTakesLeaksBackAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		lost := service("lost", nodePort)
		lost.Namespace = "shop"
		if _, err := c.alloc.BeginCreate(ns, lost, &metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); c.alloc.Run(ctx) }()
		synctest.Wait()
		if len(c.takenAddresses()) != 1 {
			t.Fatal("one pass must not take anything back")
		}
		time.Sleep(watchPeriod*(leakPasses-1) + time.Second) // the bubble's clock
		synctest.Wait()
		c.consistent()
		cancel()
		<-ended
	})
}
