package plan

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden plans")

// Each story under testdata is a node, Services and EndpointSlices, and the plan that they make.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("stories: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			story, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := planStory(t, story)
			golden := slices.IndexFunc(story.Files, func(f txtar.File) bool { return f.Name == "plan.golden" })
			if *update {
				if golden < 0 {
					story.Files, golden = append(story.Files, txtar.File{Name: "plan.golden"}), len(story.Files)
				}
				story.Files[golden].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(story), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if golden < 0 {
				t.Fatal("the story has no plan.golden; run with -update and read it")
			}
			if diff := cmp.Diff(string(story.Files[golden].Data), got); diff != "" {
				t.Errorf("plan differs (- golden, + now):\n%s", diff)
			}
		})
	}
}

func planStory(t *testing.T, story *txtar.Archive) string {
	t.Helper()
	facts := Facts{NodeName: "here", Zone: "a"}
	var services []Service
	var all []Slice
	var out strings.Builder
	for _, f := range story.Files {
		for doc := range strings.SplitSeq(string(f.Data), "\n---\n") {
			switch f.Name {
			case "services.yaml":
				var s corev1.Service
				decode(t, doc, &s)
				if svc, ours := FromService(&s); ours {
					services = append(services, svc)
				} else {
					out.WriteString(s.Namespace + "/" + s.Name + " is left alone\n")
				}
			case "slices.yaml":
				var s discoveryv1.EndpointSlice
				decode(t, doc, &s)
				if sl, ours := FromSlice(&s); ours {
					all = append(all, sl)
				} else {
					out.WriteString("slice " + s.Namespace + "/" + s.Name + " is left alone\n")
				}
			}
		}
	}
	for _, svc := range services {
		var own []Slice
		for _, sl := range all {
			if sl.Service == svc.Name {
				own = append(own, sl)
			}
		}
		p := Plan(facts, svc, own)
		out.WriteString(p.String())
		slices.Reverse(own)
		if again := Plan(facts, svc, own); again.String() != p.String() {
			t.Errorf("the plan depends on the slices' order:\n%s\n%s", p, again)
		}
	}
	return out.String()
}

func decode(t *testing.T, doc string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
		t.Fatalf("%v in:\n%s", err, doc)
	}
}
