package agent

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestBehaviourTable holds docs/BEHAVIOUR.md against the tests that there are.
func TestBehaviourTable(t *testing.T) {
	root := filepath.Join("..", "..")
	b, err := os.ReadFile(filepath.Join(root, "docs", "BEHAVIOUR.md"))
	if err != nil {
		t.Fatal(err)
	}
	here := testsIn(t, ".")
	named := map[string]bool{}
	ref := regexp.MustCompile("`((?:[a-z0-9_/]+\\.)?Test[A-Za-z0-9]+)`")
	rows := 0
	for n, line := range strings.Split(string(b), "\n") {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| Behaviour ") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if len(cells) != 3 {
			t.Errorf("line %d has %d cells, want behaviour, test, result: %s", n+1, len(cells), line)
			continue
		}
		refs := ref.FindAllStringSubmatch(cells[1], -1)
		if strings.TrimSpace(cells[0]) == "" || strings.TrimSpace(cells[2]) == "" || len(refs) == 0 {
			t.Errorf("line %d has an empty cell or names no test: %s", n+1, line)
		}
		for _, m := range append(refs, ref.FindAllStringSubmatch(cells[2], -1)...) {
			folder, name, elsewhere := strings.Cut(m[1], ".")
			if !elsewhere {
				named[m[1]] = true
				if !here[m[1]] {
					t.Errorf("line %d names %s, which tests/agent does not have", n+1, m[1])
				}
				continue
			}
			if !testsIn(t, filepath.Join(root, folder))[name] {
				t.Errorf("line %d names %s, which %s does not have", n+1, name, folder)
			}
		}
	}
	if rows < 50 {
		t.Errorf("the table has %d rows: the check looks in the wrong place", rows)
	}
	for name := range here {
		if !named[name] && name != "TestMain" && name != "TestBehaviourTable" {
			t.Errorf("%s has no row in docs/BEHAVIOUR.md", name)
		}
	}
}

// testsIn lists the test functions of a folder.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range tree.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				out[fn.Name.Name] = true
			}
		}
	}
	return out
}
