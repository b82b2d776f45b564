package proxy

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/reevehq/reeve/internal/story"
	"github.com/reevehq/reeve/proxy/plan"
)

var update = flag.Bool("update", false, "rewrite the golden plans")

// planStep writes the plan of one state of the API, on node "here" in zone "a".
func planStep(t *testing.T, s *story.Story, step story.Step, got *strings.Builder) {
	t.Helper()
	var all []plan.Slice
	for _, o := range step.Slices {
		if sl, ours := plan.FromSlice(o); ours {
			all = append(all, sl)
		} else {
			got.WriteString("slice " + o.Namespace + "/" + o.Name + " is left alone\n")
		}
	}
	for _, o := range step.Services {
		svc, ours := plan.FromService(o)
		if !ours {
			got.WriteString("service " + o.Namespace + "/" + o.Name + " is left alone\n")
			continue
		}
		own := slices.DeleteFunc(slices.Clone(all), func(sl plan.Slice) bool { return sl.Service != svc.Name })
		facts := plan.Facts{NodeName: "here", Zone: "a", ClusterCIDRs: s.Node.CIDRs()}
		p := plan.Plan(facts, svc, own)
		got.WriteString(p.String())
		slices.Reverse(own)
		if again := plan.Plan(facts, svc, own); again.String() != p.String() {
			t.Errorf("the plan depends on the slices' order:\n%s\n%s", p, again)
		}
	}
}

// Each story is Services and EndpointSlices, and the plan that they make.
func TestStories(t *testing.T) {
	stories, err := story.Load("plan/testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stories {
		t.Run(s.Name, func(t *testing.T) {
			var got strings.Builder
			for i, step := range s.Steps {
				if len(s.Steps) > 1 {
					fmt.Fprintf(&got, "# step %d\n", i+1)
				}
				planStep(t, s, step, &got)
			}
			if *update {
				if err := s.SetGolden("plan.golden", got.String()); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, ok := s.Golden("plan.golden")
			if !ok {
				t.Fatal("the story has no plan.golden; run with -update and read it")
			}
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("plan differs (- golden, + now):\n%s", diff)
			}
		})
	}
}
