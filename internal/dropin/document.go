package dropin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxFile bounds a configuration file.
const maxFile = 1 << 20

// Document is what is set, as decoded JSON: what nobody set is not in it.
type Document map[string]any

// Kind is the apiVersion and kind that a file must have.
type Kind struct{ APIVersion, Kind string }

// Read reads a YAML or JSON file of the kind. Strict: a field that typed (a pointer to a struct with JSON tags) does not
// have, a key that is there twice and a value of the wrong type are errors that name file and field.
func Read(path string, kind Kind, typed any) (Document, error) {
	doc, loose, err := ReadLenient(path, kind, typed)
	if err == nil && len(loose) > 0 {
		err = fmt.Errorf("configuration %q: %w", path, errors.Join(loose...))
	}
	return doc, err
}

// ReadLenient is Read for a program that takes unknown and doubled fields with no more than a warning: they come back in
// loose.
func ReadLenient(path string, kind Kind, typed any) (doc Document, loose []error, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return nil, nil, fmt.Errorf("read configuration %q: it is no regular file of at most 1 MiB", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	if doc, loose, err = decode(data, kind, typed); err != nil {
		return nil, nil, fmt.Errorf("configuration %q: %w", path, err)
	}
	return doc, loose, nil
}

func decode(data []byte, kind Kind, typed any) (Document, []error, error) {
	if strings.TrimSpace(string(data)) == "" {
		return nil, nil, fmt.Errorf("it is empty; it must begin with apiVersion: %s and kind: %s", kind.APIVersion, kind.Kind)
	}
	raw, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, nil, plain(err)
	}
	doc, err := parse(raw)
	if err != nil {
		return nil, nil, err
	}
	if got := (Kind{text(doc["apiVersion"]), text(doc["kind"])}); got != kind {
		return nil, nil, fmt.Errorf("apiVersion %q and kind %q: must be %q and %q", got.APIVersion, got.Kind, kind.APIVersion, kind.Kind)
	}
	loose, err := kjson.UnmarshalStrict(raw, typed) // names are case-sensitive
	if err != nil {
		return nil, nil, plain(err)
	}
	return doc, loose, nil
}

func parse(raw []byte) (Document, error) {
	var doc Document
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &doc); err != nil {
		return nil, plain(err)
	}
	return doc, nil
}

// plain takes the libraries' own layers out of an error's front.
func plain(err error) error {
	s := err.Error()
	for _, layer := range []string{"error converting YAML to JSON: ", "error unmarshaling JSON: ", "while decoding JSON: ", "json: ", "yaml: "} {
		s = strings.TrimPrefix(s, layer)
	}
	return errors.New(s)
}

// ReadFolder reads every *.conf file below a folder in the order of the names, and merges each onto base (RFC 7386: maps
// merge, all else replaces, null unsets).
func ReadFolder(base Document, folder string, kind Kind, typed func() any) (Document, error) {
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("read configuration folder: %w", err)
		}
		if d.IsDir() || filepath.Ext(path) != ".conf" {
			return nil
		}
		doc, err := Read(path, kind, typed())
		if err != nil {
			return err
		}
		base, err = Merge(base, doc)
		return err
	})
	return base, err
}

// Merge applies patch to base (RFC 7386) and leaves both as they were.
func Merge(base, patch Document) (Document, error) {
	if base == nil {
		base = Document{}
	}
	b, err := json.Marshal(base)
	if err != nil {
		return nil, fmt.Errorf("merge configuration: %w", err)
	}
	p, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("merge configuration: %w", err)
	}
	merged, err := jsonpatch.MergePatch(b, p)
	if err != nil {
		return nil, fmt.Errorf("merge configuration: %w", err)
	}
	return parse(merged)
}

// Set puts a value at a path. A map takes the place of one that is there, unless it joins.
func (d Document) Set(path string, value any, join bool) {
	m := map[string]any(d)
	parts := strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		next, ok := m[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			m[p] = next
		}
		m = next
	}
	last := parts[len(parts)-1]
	if add, ok := value.(map[string]any); ok && join {
		have, _ := m[last].(map[string]any)
		all := maps.Clone(have)
		if all == nil {
			all = map[string]any{}
		}
		maps.Copy(all, add)
		value = all
	}
	m[last] = value
}

// Get is the value at a path, nil where none is set.
func (d Document) Get(path string) any {
	var at any = map[string]any(d)
	for p := range strings.SplitSeq(path, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[p]
	}
	return at
}

// Decode fills typed from the document; what typed does not have was told of by Read. Values that flags set are checked
// here: the error names the field.
func (d Document) Decode(typed any) error {
	raw, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("decode configuration: %w", err)
	}
	if _, err := kjson.UnmarshalStrict(raw, typed); err != nil {
		return fmt.Errorf("decode configuration: %w", plain(err))
	}
	return nil
}
