package agent

import (
	"errors"
	"log/slog"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
)

func TestEventsHaveARateOfTheirOwn(t *testing.T) {
	for _, tc := range []struct {
		given Config
		qps   float32
		burst int
	}{
		{Config{}, 50, 100},
		{Config{EventRecordQPS: 7, EventBurst: 9}, 7, 9},
		{Config{EventRecordQPS: -1}, -1, 100},
	} {
		cfg := tc.given
		cfg.SetDefaults()
		cfg.RESTConfig = &rest.Config{Host: "https://192.0.2.1", QPS: 1, Burst: 1}
		got := eventClient(&cfg)
		if got.QPS != tc.qps || got.Burst != tc.burst || got.Host != cfg.RESTConfig.Host {
			t.Errorf("%d and %d become %v a second, %d at once; want %v and %d", tc.given.EventRecordQPS, tc.given.EventBurst, got.QPS, got.Burst, tc.qps, tc.burst)
		}
		if cfg.RESTConfig.QPS != 1 {
			t.Error("the agent's own rate was changed")
		}
	}
}

// refusingSink answers every event with an error.
type refusingSink struct {
	record.EventSink
	err error
}

func (r refusingSink) Create(*v1.Event) (*v1.Event, error) { return nil, r.err }

// An event of a namespace that is gone is dropped without a word; any other refusal is told.
func TestEventsOfNamespacesThatAreGone(t *testing.T) {
	terminating := apierrors.NewForbidden(v1.Resource("events"), "e", errors.New("being terminated"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: v1.NamespaceTerminatingCause}}
	for name, tc := range map[string]struct {
		err     error
		dropped bool
	}{
		"gone":         {apierrors.NewNotFound(v1.Resource("namespaces"), "n"), true},
		"going":        {terminating, true},
		"forbidden":    {apierrors.NewForbidden(v1.Resource("events"), "e", errors.New("no")), false},
		"another kind": {apierrors.NewNotFound(v1.Resource("events"), "e"), false},
		"no answer":    {errors.New("connection refused"), false},
	} {
		_, err := eventSink{refusingSink{err: tc.err}, slog.New(slog.DiscardHandler)}.Create(&v1.Event{})
		if (err == nil) != tc.dropped {
			t.Errorf("%s: %v, dropped should be %v", name, err, tc.dropped)
		}
	}
}
