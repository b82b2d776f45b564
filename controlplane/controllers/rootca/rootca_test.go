package rootca

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBundleIsInEveryNamespaceAndStaysRight(t *testing.T) {
	c := looptest.New(t, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}},
		&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "a"}, Data: map[string]string{key: "stale", "other": "x"}})
	c.Run(New(c.Env, []byte("PEM")))
	right := func() error {
		m, err := c.CoreV1().ConfigMaps("a").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || m.Data[key] != "PEM" || len(m.Data) != 1 {
			return fmt.Errorf("%v, %v", m.Data, err)
		}
		return nil
	}
	c.Eventually("the stale bundle to be replaced", right)
	m, _ := c.CoreV1().ConfigMaps("a").Get(t.Context(), name, metav1.GetOptions{})
	m.Data[key] = "forged"
	if _, err := c.CoreV1().ConfigMaps("a").Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the forged bundle to be replaced", right)
	if err := c.CoreV1().ConfigMaps("a").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the bundle again", right)
}
