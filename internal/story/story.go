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
)

// Story is one file.
type Story struct {
	Name     string
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice

	path    string
	archive *txtar.Archive
}

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
				o := &corev1.Service{}
				if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
					return fmt.Errorf("%w in:\n%s", err, doc)
				}
				s.Services = append(s.Services, o)
			case "slices.yaml":
				o := &discoveryv1.EndpointSlice{}
				if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
					return fmt.Errorf("%w in:\n%s", err, doc)
				}
				s.Slices = append(s.Slices, o)
			}
		}
	}
	return nil
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
