package plan_test

import (
	"flag"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/reevehq/reeve/proxy/plan"
	"github.com/reevehq/reeve/proxy/story"
)

var update = flag.Bool("update", false, "rewrite the golden plans")

// Each story under testdata is a node, Services and EndpointSlices, and the plan that they make.
func TestStories(t *testing.T) {
	stories, err := story.Load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stories {
		t.Run(s.Name, func(t *testing.T) {
			var got strings.Builder
			for _, l := range s.LeftAlone {
				got.WriteString(l + " is left alone\n")
			}
			for _, svc := range s.Services {
				own := s.SlicesOf(svc.Name)
				p := plan.Plan(story.Facts(), svc, own)
				got.WriteString(p.String())
				slices.Reverse(own)
				if again := plan.Plan(story.Facts(), svc, own); again.String() != p.String() {
					t.Errorf("the plan depends on the slices' order:\n%s\n%s", p, again)
				}
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
