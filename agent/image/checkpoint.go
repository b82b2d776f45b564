package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// checkpointVersion 1: {"version":1,"failed":{"<pod UID>_<image>":{delay,until,error}}}, delay in nanoseconds.
const checkpointVersion = 1

type checkpoint struct {
	Version int                         `json:"version"`
	Failed  map[string]checkpointFailed `json:"failed"`
}

type checkpointFailed struct {
	Delay time.Duration `json:"delay"`
	Until time.Time     `json:"until"`
	Error string        `json:"error"`
}

// Checkpoint returns the back-offs for a later Restore: a registry that is down is not asked more often because the agent
// was restarted.
func (m *Manager) Checkpoint() []byte {
	c := checkpoint{Version: checkpointVersion, Failed: map[string]checkpointFailed{}}
	m.mu.Lock()
	for key, f := range m.backoff {
		c.Failed[key] = checkpointFailed{Delay: f.delay, Until: f.until, Error: f.err.Error()}
	}
	m.mu.Unlock()
	out, err := json.Marshal(c)
	if err != nil {
		return nil // plain data: cannot happen
	}
	return out
}

// Restore reads what Checkpoint wrote. What lies further ahead than any back-off is left out: the clock was set since.
func (m *Manager) Restore(data []byte) error {
	var c checkpoint
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("decode image back-offs: %w", err)
	}
	if c.Version != checkpointVersion {
		return fmt.Errorf("decode image back-offs: version is %d, this program reads %d", c.Version, checkpointVersion)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, f := range c.Failed {
		if time.Until(f.Until) <= backoffMax && f.Delay > 0 && f.Delay <= backoffMax {
			m.backoff[key] = &failure{delay: f.Delay, until: f.Until, err: errors.New(f.Error)}
		}
	}
	return nil
}

// changed tells whoever saves the back-offs.
func (m *Manager) changed() {
	if m.cfg.Changed != nil {
		m.cfg.Changed()
	}
}
