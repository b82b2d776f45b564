package agent

import (
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/reevehq/reeve/tests/node"
)

var suite = &node.Suite{
	Parallel: 16,
	Setup: func(n *node.Node) {
		n.Busybox()
		responderImage(n)
	},
}

func TestMain(m *testing.M) { suite.M = m; node.Main(suite) }

// connect returns a client of n's API server, as its admin, without a rate limit.
func connect(t testing.TB, n *node.Node) (kubernetes.Interface, *rest.Config) {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", n.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS, cfg.Burst = -1, -1
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client, cfg
}
