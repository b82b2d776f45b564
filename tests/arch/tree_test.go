package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/reevehq/reeve"

// file is one Go source file of the tree: its folder relative to the root with forward slashes, and what it imports.
type file struct {
	path, dir string
	test      bool
	generated bool
	lines     int
	ast       *ast.File
	imports   []string
}

// root is the folder that holds go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatalf("find the module root: %v", err)
	}
	return dir
}

// goFiles parses every Go file of the main module. Folders with a go.mod of their own are other modules.
func goFiles(t *testing.T) []file {
	t.Helper()
	top := root(t)
	var files []file
	fset := token.NewFileSet()
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, p)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if name := d.Name(); rel != "." && (strings.HasPrefix(name, ".") || name == "testdata" || rel == "bin") {
				return fs.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil && rel != "." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(fset, p, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		f := file{
			path: rel, dir: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"),
			generated: ast.IsGenerated(parsed), lines: strings.Count(string(src), "\n"), ast: parsed,
		}
		for _, im := range parsed.Imports {
			p, err := strconv.Unquote(im.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, p)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found %d Go files below %s: the walk is broken", len(files), top)
	}
	return files
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	type state struct{ doc, docFile, program bool }
	packages := map[string]*state{}
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		s := packages[f.dir]
		if s == nil {
			s = &state{}
			packages[f.dir] = s
		}
		if f.ast.Doc != nil && len(f.ast.Doc.Text()) > 40 {
			s.doc = true
		}
		s.program = s.program || f.ast.Name.Name == "main"
		if path.Base(f.path) == "doc.go" {
			s.docFile = true
		}
	}
	for dir, s := range packages {
		// A program's comment may stand in main.go; a library has doc.go.
		if !s.doc {
			t.Errorf("%s has no package comment that says what it owns", dir)
		}
		if !s.docFile && !s.program {
			t.Errorf("%s has no doc.go", dir)
		}
	}
}

func TestFilesStayReadable(t *testing.T) {
	const limit = 500
	for _, f := range goFiles(t) {
		if !f.generated && !f.test && f.lines > limit {
			t.Errorf("%s has %d lines, over %d: which idea wants to leave?", f.path, f.lines, limit)
		}
	}
}
