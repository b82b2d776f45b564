package story

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"github.com/reevehq/reeve/proxy/plan"
)

// Story is one file.
type Story struct {
	Name     string
	Services []plan.Service
	Slices   []plan.Slice
	// LeftAlone are the objects that are not the proxy's, as lines.
	LeftAlone []string

	path    string
	archive *txtar.Archive
}

// Facts of the node in every story: here, in zone a.
func Facts() plan.Facts { return plan.Facts{NodeName: "here", Zone: "a"} }

// Load reads every story of a folder.
func Load(dir string) ([]*Story, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no stories in %s", dir)
	}
	var out []*Story
	for _, file := range files {
		s := &Story{Name: strings.TrimSuffix(filepath.Base(file), ".txtar"), path: file}
		if s.archive, err = txtar.ParseFile(file); err != nil {
			return nil, err
		}
		if err := s.read(); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func (s *Story) read() error {
	for _, f := range s.archive.Files {
		for doc := range strings.SplitSeq(string(f.Data), "\n---\n") {
			switch f.Name {
			case "services.yaml":
				var o corev1.Service
				if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
					return fmt.Errorf("%w in:\n%s", err, doc)
				}
				if svc, ours := plan.FromService(&o); ours {
					s.Services = append(s.Services, svc)
				} else {
					s.LeftAlone = append(s.LeftAlone, "service "+o.Namespace+"/"+o.Name)
				}
			case "slices.yaml":
				var o discoveryv1.EndpointSlice
				if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
					return fmt.Errorf("%w in:\n%s", err, doc)
				}
				if sl, ours := plan.FromSlice(&o); ours {
					s.Slices = append(s.Slices, sl)
				} else {
					s.LeftAlone = append(s.LeftAlone, "slice "+o.Namespace+"/"+o.Name)
				}
			}
		}
	}
	return nil
}

// SlicesOf a Service.
func (s *Story) SlicesOf(name plan.Name) []plan.Slice {
	var out []plan.Slice
	for _, sl := range s.Slices {
		if sl.Service == name {
			out = append(out, sl)
		}
	}
	return out
}

// Plan decides every Service of the story.
func (s *Story) Plan(facts plan.Facts) map[plan.Name]*plan.Planned {
	out := map[plan.Name]*plan.Planned{}
	for _, svc := range s.Services {
		p := plan.Plan(facts, svc, s.SlicesOf(svc.Name))
		out[svc.Name] = &p
	}
	return out
}

// Golden answers a section of the story; false when there is none.
func (s *Story) Golden(section string) (string, bool) {
	i := slices.IndexFunc(s.archive.Files, func(f txtar.File) bool { return f.Name == section })
	if i < 0 {
		return "", false
	}
	return string(s.archive.Files[i].Data), true
}

// SetGolden replaces a section in the file.
func (s *Story) SetGolden(section, text string) error {
	i := slices.IndexFunc(s.archive.Files, func(f txtar.File) bool { return f.Name == section })
	if i < 0 {
		i = len(s.archive.Files)
		s.archive.Files = append(s.archive.Files, txtar.File{Name: section})
	}
	s.archive.Files[i].Data = []byte(text)
	return os.WriteFile(s.path, txtar.Format(s.archive), 0o644)
}
