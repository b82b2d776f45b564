package probes

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/types"
)

// Type is which question a probe asks.
type Type int

const (
	Startup Type = iota
	Liveness
	Readiness
)

// String is the probe's name as it stands in events: "Startup", "Liveness", "Readiness".
func (t Type) String() string {
	switch t {
	case Startup:
		return "Startup"
	case Liveness:
		return "Liveness"
	case Readiness:
		return "Readiness"
	}
	return fmt.Sprintf("Type(%d)", int(t))
}

// Result is what a container's probes have established, after thresholds.
type Result int

const (
	// Unknown: no probe has decided yet. A startup probe begins here.
	Unknown Result = iota
	// Success: a liveness probe begins here, so that a container is not killed before it was asked.
	Success
	// Failure: a readiness probe begins here, so that no traffic arrives before the first answer.
	Failure
)

// String is the result as it stands in the label "result" of prober_probe_total and in the checkpoint.
func (r Result) String() string {
	switch r {
	case Success:
		return "successful"
	case Failure:
		return "failed"
	}
	return "unknown"
}

// initialResult is where a probe of this type stands before the first answer counts.
func initialResult(t Type) Result {
	switch t {
	case Liveness:
		return Success
	case Readiness:
		return Failure
	}
	return Unknown
}

// Update tells of one result that changed.
type Update struct {
	PodUID      types.UID
	Namespace   string
	Pod         string
	Container   string
	ContainerID string
	Type        Type
	Result      Result
	// Message is what the deciding probe said; empty when the result was set without probing.
	Message string
}

type resultKey struct {
	containerID string
	typ         Type
}

// state is what must survive an agent restart for one probe of one container: the decided result and the streak of equal
// answers that leads to the next decision.
type state struct {
	Result Result
	// Last and Run are the streak: Run answers in a row were Last.
	Last Result
	Run  int
	// Probed says that at least one answer came, so that a restored worker does not wait out initialDelaySeconds again.
	Probed bool
}

// checkpointVersion 1: {"version":1,"results":[{containerID,type,result,last,run}]}.
const checkpointVersion = 1

type checkpoint struct {
	Version int                `json:"version"`
	Results []checkpointResult `json:"results"`
}

type checkpointResult struct {
	ContainerID string `json:"containerID"`
	Type        Type   `json:"type"`
	Result      Result `json:"result"`
	Last        Result `json:"last"`
	Run         int    `json:"run"`
	Probed      bool   `json:"probed"`
}

func decodeCheckpoint(data []byte) (map[resultKey]state, error) {
	var c checkpoint
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("decode probe checkpoint: %w", err)
	}
	if c.Version != checkpointVersion {
		return nil, fmt.Errorf("decode probe checkpoint: version is %d, this program reads %d", c.Version, checkpointVersion)
	}
	out := make(map[resultKey]state, len(c.Results))
	for _, r := range c.Results {
		if r.Type < Startup || r.Type > Readiness || r.Result < Unknown || r.Result > Failure || r.ContainerID == "" {
			return nil, fmt.Errorf("decode probe checkpoint: result of container %q has type %d and result %d", r.ContainerID, r.Type, r.Result)
		}
		out[resultKey{r.ContainerID, r.Type}] = state{Result: r.Result, Last: r.Last, Run: r.Run, Probed: r.Probed}
	}
	return out, nil
}
