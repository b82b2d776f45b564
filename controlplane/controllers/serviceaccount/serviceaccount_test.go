package serviceaccount

import (
	"testing"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEveryNamespaceHasADefaultAccount(t *testing.T) {
	dying := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "dying"}, Status: v1.NamespaceStatus{Phase: v1.NamespaceTerminating}}
	c := looptest.New(t, &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, dying)
	c.Run(New(c.Env))
	there := func() error {
		_, err := c.CoreV1().ServiceAccounts("a").Get(t.Context(), "default", metav1.GetOptions{})
		return err
	}
	c.Eventually("the account", there)
	if err := c.CoreV1().ServiceAccounts("a").Delete(t.Context(), "default", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the account again", there)
	if _, err := c.CoreV1().ServiceAccounts("dying").Get(t.Context(), "default", metav1.GetOptions{}); err == nil {
		t.Error("a namespace on its way out got an account")
	}
}
