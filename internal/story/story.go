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
	Name string
	Node Node
	// Steps are the states that the API goes through, at least one. Each is the whole of it.
	Steps []Step

	path    string
	archive *txtar.Archive
}

// Step is one state of the API, and what packets must find then.
type Step struct {
	Services []*corev1.Service
	Slices   []*discoveryv1.EndpointSlice
	Packets  []Packet
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

// read takes the sections in their order; one with packets ends a step, and a step has what the one before it had where it
// says nothing else.
func (s *Story) read() error {
	var now Step
	for _, f := range s.archive.Files {
		var err error
		switch f.Name {
		case "node.yaml":
			err = s.Node.read(f.Data)
		case "services.yaml":
			now.Services, err = documents[corev1.Service](f.Data)
		case "slices.yaml":
			now.Slices, err = documents[discoveryv1.EndpointSlice](f.Data)
		case "packets":
			if now.Packets, err = parsePackets(string(f.Data)); err == nil {
				s.Steps = append(s.Steps, now)
			}
		}
		if err != nil {
			return fmt.Errorf("section %s: %w", f.Name, err)
		}
	}
	if len(s.Steps) == 0 {
		return fmt.Errorf("no section packets")
	}
	return nil
}

func documents[T any](data []byte) ([]*T, error) {
	var out []*T
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		o := new(T)
		if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
			return nil, fmt.Errorf("%w in:\n%s", err, doc)
		}
		out = append(out, o)
	}
	return out, nil
}

// Golden answers a section of the story; false when there is none.
func (s *Story) Golden(section string) (string, bool) {
	i := slices.IndexFunc(s.archive.Files, func(f txtar.File) bool { return f.Name == section })
	if i < 0 {
		return "", false
	}
	return string(s.archive.Files[i].Data), true
}

// SetGolden replaces a section in the file, as it stands there now.
func (s *Story) SetGolden(section, text string) error {
	archive, err := txtar.ParseFile(s.path)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == section })
	if i < 0 {
		i = len(archive.Files)
		archive.Files = append(archive.Files, txtar.File{Name: section})
	}
	archive.Files[i].Data = []byte(text)
	return os.WriteFile(s.path, txtar.Format(archive), 0o644)
}
