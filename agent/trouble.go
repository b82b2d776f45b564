package agent

import (
	"context"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/internal/logkey"
)

// troubled is a container runtime that knows which sandboxes it cannot work with, and why, by sandbox ID. The native one
// does; over another CRI socket a hung shim shows in the calls that fail.
type troubled interface {
	Troubles() map[string]string
}

// troubleEvery is how often the runtime is asked, which costs it a look into a map.
const troubleEvery = 2 * time.Second

// watchTroubles tells, in the pod's condition and by an Event, which pods run but cannot be worked with.
func (p *pods) watchTroubles(ctx context.Context) error {
	rt, ok := p.cfg.Runtime.(troubled)
	if !ok {
		return nil
	}
	t := time.NewTicker(troubleEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		p.setTroubles(rt.Troubles())
	}
}

func (p *pods) setTroubles(bySandbox map[string]string) {
	p.mu.Lock()
	now := map[types.UID]string{}
	for uid, r := range p.reports {
		if s := r.State.Current(); s != nil && bySandbox[s.ID] != "" && p.known[uid] != nil {
			now[uid] = bySandbox[s.ID]
		}
	}
	before := p.troubles
	p.troubles = now
	pods := maps.Clone(p.known)
	p.mu.Unlock()
	for uid, what := range now {
		if before[uid] == "" {
			p.log.Warn("A pod's runtime does not respond", logkey.PodUID, uid, "trouble", what)
			p.events.pod(pods[uid], "", v1.EventTypeWarning, "RuntimeNotResponding", what)
			p.wake(uid)
		}
	}
	for uid := range before {
		if now[uid] == "" && pods[uid] != nil {
			p.events.pod(pods[uid], "", v1.EventTypeNormal, "RuntimeResponding", "The pod's runtime responds again")
			p.wake(uid)
		}
	}
}
