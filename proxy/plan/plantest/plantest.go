package plantest

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"github.com/reevehq/reeve/internal/story"
	"github.com/reevehq/reeve/proxy/plan"
)

// Stories reads the planner's stories for a test of a backend, whose folder lies beside the planner's.
func Stories(t testing.TB) []*story.Story {
	t.Helper()
	stories, err := story.Load("../plan/testdata")
	if err != nil {
		t.Fatal(err)
	}
	return stories
}

// Facts are what a story's node knows of itself and was told.
func Facts(s *story.Story) plan.Facts {
	return plan.Facts{
		NodeName: "here", Zone: "a", ClusterCIDRs: s.Node.CIDRs(), NodePortAddresses: s.Node.NodePortAddresses,
		LocalhostNodePorts: s.Node.LocalhostNodePorts, MasqueradeAll: s.Node.MasqueradeAll,
		LocalInterface: s.Node.LocalInterface, LocalInterfaceIsPrefix: s.Node.LocalInterfaceIsPrefix,
	}
}

// Planned are the Services of a story's step that a proxy serves.
func Planned(s *story.Story, step int) map[plan.Name]*plan.Planned {
	out := map[plan.Name]*plan.Planned{}
	for _, o := range s.Steps[step].Services {
		svc, ours := plan.FromService(o)
		if !ours {
			continue
		}
		var own []plan.Slice
		for _, o := range s.Steps[step].Slices {
			if sl, ours := plan.FromSlice(o); ours && sl.Service == svc.Name {
				own = append(own, sl)
			}
		}
		p := plan.Plan(Facts(s), svc, own)
		out[svc.Name] = &p
	}
	return out
}

// Node is a backend of one family over a kernel that only remembers.
type Node struct {
	Apply func(ctx context.Context, changes map[plan.Name]*plan.Planned, full bool) error
	// Trace answers what becomes of connections that begin with such a packet.
	Trace func(*testing.T, story.Packet) story.Outcome
}

// FollowPackets sends every packet of every story where it should go, in every step, whether the steps came as differences or
// all at once. empty makes a node on which nothing was written yet.
func FollowPackets(t *testing.T, empty func(*story.Story, plan.Family) Node) {
	for _, s := range Stories(t) {
		t.Run(s.Name, func(t *testing.T) {
			stepped := map[plan.Family]Node{}
			for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
				stepped[family] = empty(s, family)
				if err := stepped[family].Apply(t.Context(), nil, true); err != nil {
					t.Fatal(err)
				}
			}
			before, claims := map[plan.Name]*plan.Planned{}, plan.NewClaims()
			for i, step := range s.Steps {
				all := Planned(s, i)
				changes := maps.Clone(all)
				for name := range before {
					if _, still := all[name]; !still {
						changes[name] = nil
					}
				}
				before = all
				changes, planned := claims.Change(changes), plan.NewClaims().Change(all)
				for family, n := range stepped {
					if err := n.Apply(t.Context(), changes, false); err != nil {
						t.Fatal(err)
					}
					whole := empty(s, family)
					if err := whole.Apply(t.Context(), planned, true); err != nil {
						t.Fatal(err)
					}
					for how, n := range map[string]Node{"step by step": n, "at once": whole} {
						checkPackets(t, n, family, step, fmt.Sprintf("step %d, %s", i+1, how))
					}
				}
			}
		})
	}
}

func checkPackets(t *testing.T, n Node, family plan.Family, step story.Step, where string) {
	t.Helper()
	for _, p := range step.Packets {
		if plan.FamilyOf(p.To.Addr()) != family {
			continue
		}
		if got := n.Trace(t, p); fmt.Sprint(got) != fmt.Sprint(p.Want) {
			t.Errorf("%s: %s\n got %s", where, p, got)
		}
	}
}
