package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/reevehq/reeve/agent/bootstrap"
	"github.com/reevehq/reeve/internal/datadir"
)

// The agent's rate towards the API server: the defaults of KubeletConfiguration's kubeAPIQPS and kubeAPIBurst.
const (
	apiQPS   = 50
	apiBurst = 100
)

// tokenTimeout bounds the wait for --token-file, which a control plane that starts at the same time writes.
const tokenTimeout = 2 * time.Minute

// nodeAPI is the node's way into the API server.
type nodeAPI struct {
	config *rest.Config
	client kubernetes.Interface
	// clientCAFile is the CA of clients of the agent's server; empty where the kubeconfig does not tell.
	clientCAFile string
	// collectors are the credential's metrics.
	collectors []prometheus.Collector
	// renew renews the credential until its context ends; nil for a kubeconfig of the user's.
	renew func(context.Context) error
}

// join gets the node's credential: from the user's kubeconfig, or with the join token.
func join(ctx context.Context, log *slog.Logger, dir datadir.Dir, o *agentOptions) (*nodeAPI, error) {
	api := &nodeAPI{}
	if o.Kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
		if err != nil {
			return nil, badConfig(fmt.Errorf("read --kubeconfig: %w", err))
		}
		api.config, api.clientCAFile = cfg, cfg.CAFile
	} else {
		credential, err := bootstrap.Join(ctx, bootstrap.Config{
			Server: o.Server, Token: func() (string, error) { return o.joinToken(ctx) }, NodeName: o.Node.NodeName,
			Dir: filepath.Join(dir.Agent(), "pki"), Kubeconfig: filepath.Join(dir.Agent(), "node.kubeconfig"), Logger: log.With("part", "join"),
		})
		if err != nil {
			return nil, err
		}
		api.use(credential)
		api.clientCAFile = credential.CAFile
	}
	return api, api.connect(apiQPS, apiBurst, runtime.ContentTypeProtobuf)
}

// use takes a credential that is renewed.
func (api *nodeAPI) use(c *bootstrap.Credential) {
	api.config, api.renew, api.collectors = c.REST, c.Run, []prometheus.Collector{c}
}

// connect makes the client.
func (api *nodeAPI) connect(qps float32, burst int, contentType string) (err error) {
	api.config.QPS, api.config.Burst, api.config.ContentType = qps, burst, contentType
	api.config.AcceptContentTypes = strings.Join([]string{contentType, runtime.ContentTypeJSON}, ",")
	if api.client, err = kubernetes.NewForConfig(api.config); err != nil {
		return fmt.Errorf("make the API client: %w", err)
	}
	return nil
}

// joinToken is --token, or what --token-file holds once it is there.
func (o *agentOptions) joinToken(ctx context.Context) (string, error) {
	if o.TokenFile == "" {
		if o.Token == "" {
			return "", badConfig(errors.New("this node has no credential yet and neither --token nor --token-file is given; `reeve token` on the server prints one"))
		}
		return o.Token, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	for {
		token, err := readToken(o.TokenFile)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return token, err
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("wait for --token-file: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
