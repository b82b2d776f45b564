package native

import (
	"context"
	"time"

	"github.com/reevehq/reeve/internal/logkey"
)

// checkPause spreads the checks: each may run a chain of plugins.
const checkPause = 100 * time.Millisecond

// checkNetworks runs the network's CHECK on the sandboxes that were taken over, one after the other, each with a deadline
// of its own. What is wrong is told in the log and in the sandbox's verbose status, and is left as it is: whether a pod
// that lost a route is better off dead is not the runtime's to decide.
func (r *Runtime) checkNetworks(run context.Context) {
	if r.cfg.Network == nil {
		return
	}
	r.store.mu.RLock()
	var list []*sandbox
	for _, s := range r.store.sandboxes {
		if s.state == sandboxReady && s.rec.NetNS != "" {
			list = append(list, s)
		}
	}
	r.store.mu.RUnlock()
	for _, s := range list {
		select {
		case <-run.Done():
			return
		case <-time.After(checkPause):
		}
		r.store.mu.RLock()
		ready, result := s.state == sandboxReady, s.net
		r.store.mu.RUnlock()
		if !ready {
			continue
		}
		ctx, cancel := context.WithTimeout(run, networkTimeout)
		err := r.cfg.Network.Check(ctx, networkRequest(s), result)
		cancel()
		r.store.mu.Lock()
		still := s.state == sandboxReady
		if err != nil && still {
			s.checked = err.Error()
		}
		r.store.mu.Unlock()
		if err != nil && still && run.Err() == nil {
			r.log.Warn("A pod's network is not what it was", logkey.SandboxID, s.id, logkey.Err, err)
		}
	}
}
