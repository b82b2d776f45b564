package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// requestTimeout bounds one question to a server that may not be up yet.
	requestTimeout = 5 * time.Second
	// clusterInfo is where bootstrap information is public (kubeadm's convention).
	clusterInfo = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
)

// Config of Join.
type Config struct {
	// Server is the API server's URL, as https://host:6443.
	Server string
	// Token gives the join token; asked only when there is no certificate for this node yet, or to renew one that expired.
	Token func() (string, error)
	// NodeName becomes system:node:<name>.
	NodeName string
	// Dir holds certificates and CA (made with 0700), Kubeconfig is the file that is written.
	Dir        string
	Kubeconfig string
	Logger     *slog.Logger
}

// joiner is a Join on its way.
type joiner struct {
	cfg    Config
	caFile string
}

// Join returns the node's credential, having one signed first if there is none. It waits for a server that does not
// answer, until ctx ends; a CA or a token that is wrong is an error at once. A certificate that has expired is renewed by
// Run, so that a node which was off for long starts without its API server too.
func Join(ctx context.Context, cfg Config) (*Credential, error) {
	store, err := openStore(cfg.Dir)
	if err != nil {
		return nil, err
	}
	j := &joiner{cfg: cfg, caFile: filepath.Join(cfg.Dir, "ca.crt")}
	c := &Credential{
		CAFile: j.caFile, node: cfg.NodeName, log: cfg.Logger, store: store, renewer: j.renewer,
		mend: "start with a valid --token (`reeve token` on the server prints one)",
	}
	pair, err := store.Current()
	_, noCA := os.Stat(j.caFile)
	if err != nil || noCA != nil || pair.Leaf == nil || pair.Leaf.Subject.CommonName != nodeUser(cfg.NodeName) {
		client, err := j.client(ctx)
		if err != nil {
			return nil, err
		}
		certPEM, keyPEM, err := request(ctx, client, cfg.NodeName, cfg.Logger)
		if err != nil {
			return nil, err
		}
		if pair, err = store.Update(certPEM, keyPEM); err != nil {
			return nil, fmt.Errorf("keep client certificate: %w", err)
		}
		cfg.Logger.Info("Joined the cluster", logkey.Node, cfg.NodeName)
	}
	c.show(pair)
	if err := c.use(&rest.Config{Host: cfg.Server, TLSClientConfig: rest.TLSClientConfig{CAFile: j.caFile}}); err != nil {
		return nil, err
	}
	return c, j.writeKubeconfig(store.CurrentPath())
}

// client authenticates with the token, to a server whose CA the token vouches for.
func (j *joiner) client(ctx context.Context) (kubernetes.Interface, error) {
	s, err := j.cfg.Token()
	if err != nil {
		return nil, fmt.Errorf("read join token: %w", err)
	}
	token, err := ParseToken(s)
	if err != nil {
		return nil, err
	}
	ca, err := j.fetchCA(ctx, token)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(j.caFile, ca, 0o600); err != nil {
		return nil, fmt.Errorf("write CA: %w", err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: j.cfg.Server, BearerToken: token.Bearer, TLSClientConfig: rest.TLSClientConfig{CAData: ca},
	})
	if err != nil {
		return nil, fmt.Errorf("make bootstrap client: %w", err)
	}
	return client, nil
}

// renewer is client for a node that had a certificate: it does not wait for long, its caller comes again.
func (j *joiner) renewer() (kubernetes.Interface, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*requestTimeout)
	defer cancel()
	return j.client(ctx)
}

// writeKubeconfig writes the node's kubeconfig for the tools of administrators.
func (j *joiner) writeKubeconfig(pair string) error {
	if j.cfg.Kubeconfig == "" {
		return nil
	}
	cluster := &clientcmdapi.Cluster{Server: j.cfg.Server, CertificateAuthority: j.caFile}
	return writeKubeconfig(j.cfg.Kubeconfig, "reeve", cluster, pair)
}

func writeKubeconfig(path, name string, cluster *clientcmdapi.Cluster, pair string) error {
	kc := clientcmdapi.NewConfig()
	kc.Clusters[name] = cluster
	kc.AuthInfos["node"] = &clientcmdapi.AuthInfo{ClientCertificate: pair, ClientKey: pair}
	kc.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: "node", Namespace: "default"}
	kc.CurrentContext = name
	if err := clientcmd.WriteToFile(*kc, path); err != nil { // 0600
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// fetchCA asks the server, whom nobody vouches for yet, for its CA; checks it against the token; and asks again over a
// connection that the CA vouches for.
func (j *joiner) fetchCA(ctx context.Context, token Token) ([]byte, error) {
	if token.CAHash == "" {
		return nil, errors.New("token: without a CA hash it cannot be told whether this is the right server; use one that begins with R1")
	}
	for delay := retryFirst; ; delay = min(delay*2, retryMax) {
		ca, err := j.tryCA(ctx, token)
		var down *unreachable
		if err == nil || !errors.As(err, &down) {
			return ca, err
		}
		j.cfg.Logger.Debug("Waiting for the API server", logkey.Err, err)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("join %s: %w (last: %w)", j.cfg.Server, ctx.Err(), err)
		case <-time.After(delay):
		}
	}
}

// unreachable is a failure that time may heal.
type unreachable struct{ err error }

func (u *unreachable) Error() string { return u.err.Error() }
func (u *unreachable) Unwrap() error { return u.err }

func (j *joiner) tryCA(ctx context.Context, token Token) ([]byte, error) {
	ca, err := j.info(ctx, &tls.Config{InsecureSkipVerify: true}) // what comes is checked against the token's hash
	if err != nil {
		return nil, err
	}
	if err := token.checkCA(ca); err != nil {
		return nil, fmt.Errorf("join %s: %w", j.cfg.Server, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("join %s: the server's CA cannot be parsed", j.cfg.Server)
	}
	if _, err := j.info(ctx, &tls.Config{RootCAs: pool}); err != nil {
		return nil, fmt.Errorf("join %s: its certificate is not of the cluster's CA: %w", j.cfg.Server, err)
	}
	return ca, nil
}

// info reads the CA out of cluster-info.
func (j *joiner) info(ctx context.Context, tlsConfig *tls.Config) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.cfg.Server+clusterInfo, nil)
	if err != nil {
		return nil, fmt.Errorf("server: %q is not a URL: %w", j.cfg.Server, err)
	}
	req.Header.Set("Accept", "application/json")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, &unreachable{err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, &unreachable{err}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, &unreachable{fmt.Errorf("read cluster-info: %s", resp.Status)}
	}
	var cm v1.ConfigMap
	if err := json.Unmarshal(body, &cm); err != nil {
		return nil, fmt.Errorf("read cluster-info: %w", err)
	}
	kc, err := clientcmd.Load([]byte(cm.Data["kubeconfig"]))
	if err != nil {
		return nil, fmt.Errorf("read cluster-info: %w", err)
	}
	for _, cl := range kc.Clusters {
		if len(cl.CertificateAuthorityData) > 0 {
			return cl.CertificateAuthorityData, nil
		}
	}
	return nil, errors.New("read cluster-info: it names no CA")
}
