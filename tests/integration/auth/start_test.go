package auth

import (
	"os"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/reevehq/reeve/tests/integration/apiserver"
)

var shared *apiserver.Cluster

func TestMain(m *testing.M) { os.Exit(apiserver.Main(m, &shared)) }

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func forbidden(t *testing.T, what string, err error) {
	t.Helper()
	if !apierrors.IsForbidden(err) {
		t.Errorf("%s must be forbidden, got %v", what, err)
	}
}

func unauthorized(t *testing.T, what string, err error) {
	t.Helper()
	if !apierrors.IsUnauthorized(err) {
		t.Errorf("%s must be unauthorized, got %v", what, err)
	}
}
