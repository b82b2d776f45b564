package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// requestTimeout bounds one question to a server that may not be up yet.
	requestTimeout = 5 * time.Second
	// retryFirst doubles to retryMax while the server cannot be reached.
	retryFirst = 50 * time.Millisecond
	retryMax   = 2 * time.Second
	// signTimeout bounds the wait for somebody to approve and sign the request; then it is made anew.
	signTimeout = 15 * time.Minute
	// pairName is the prefix of the client certificate's files, as kubelet's.
	pairName = "kubelet-client"
	// clusterInfo is where bootstrap information is public (kubeadm's convention).
	clusterInfo = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
)

// Config of Join.
type Config struct {
	// Server is the API server's URL, as https://host:6443.
	Server string
	// Token gives the join token; asked only when there is no valid certificate yet.
	Token func() (string, error)
	// NodeName becomes system:node:<name>.
	NodeName string
	// Dir holds certificates and CA (made with 0700), Kubeconfig is the file that is written.
	Dir        string
	Kubeconfig string
	Logger     *slog.Logger
}

// Credential is a node's own way into the API server.
type Credential struct {
	// REST authenticates as system:node:<name>. Its certificate is read from its file, so renewal needs no restart.
	REST *rest.Config
	// CAFile is the cluster's CA.
	CAFile string

	cfg   Config
	store certificate.FileStore
}

// Join returns the node's credential, having one signed first if there is none or it has expired. It waits for a server
// that does not answer, until ctx ends; a CA or a token that is wrong is an error at once.
func Join(ctx context.Context, cfg Config) (*Credential, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for keys: %w", err)
	}
	store, err := certificate.NewFileStoreWithLogger(klog.Background().V(4), pairName, cfg.Dir, cfg.Dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("open certificate store: %w", err)
	}
	c := &Credential{cfg: cfg, store: store, CAFile: filepath.Join(cfg.Dir, "ca.crt")}
	if c.usable(time.Now()) {
		if err := c.load(); err != nil {
			return nil, err
		}
		return c, nil
	}
	s, err := cfg.Token()
	if err != nil {
		return nil, fmt.Errorf("read join token: %w", err)
	}
	token, err := ParseToken(s)
	if err != nil {
		return nil, err
	}
	ca, err := c.fetchCA(ctx, token)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.CAFile, ca, 0o600); err != nil {
		return nil, fmt.Errorf("write CA: %w", err)
	}
	if err := c.sign(ctx, token, ca); err != nil {
		return nil, err
	}
	if err := c.load(); err != nil {
		return nil, err
	}
	cfg.Logger.Info("Joined the cluster", logkey.Node, cfg.NodeName)
	return c, nil
}

// usable tells whether there is a certificate for this node that has not expired, and a CA.
func (c *Credential) usable(now time.Time) bool {
	pair, err := c.store.Current()
	if err != nil || pair.Leaf == nil {
		return false
	}
	if _, err := os.Stat(c.CAFile); err != nil {
		return false
	}
	return pair.Leaf.Subject.CommonName == nodeUser(c.cfg.NodeName) && now.Before(pair.Leaf.NotAfter)
}

func nodeUser(name string) string { return "system:node:" + name }

// load makes the rest.Config and writes the kubeconfig.
func (c *Credential) load() error {
	pair := c.store.CurrentPath()
	c.REST = &rest.Config{
		Host:            c.cfg.Server,
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.CAFile, CertFile: pair, KeyFile: pair},
	}
	if c.cfg.Kubeconfig == "" {
		return nil
	}
	kc := clientcmdapi.NewConfig()
	kc.Clusters["reeve"] = &clientcmdapi.Cluster{Server: c.cfg.Server, CertificateAuthority: c.CAFile}
	kc.AuthInfos["node"] = &clientcmdapi.AuthInfo{ClientCertificate: pair, ClientKey: pair}
	kc.Contexts["reeve"] = &clientcmdapi.Context{Cluster: "reeve", AuthInfo: "node"}
	kc.CurrentContext = "reeve"
	if err := clientcmd.WriteToFile(*kc, c.cfg.Kubeconfig); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return os.Chmod(c.cfg.Kubeconfig, 0o600)
}

// fetchCA asks the server, whom nobody vouches for yet, for its CA; checks it against the token; and asks again over a
// connection that the CA vouches for.
func (c *Credential) fetchCA(ctx context.Context, token Token) ([]byte, error) {
	if token.CAHash == "" {
		return nil, errors.New("token: without a CA hash it cannot be told whether this is the right server; use one that begins with R1")
	}
	for delay := retryFirst; ; delay = min(delay*2, retryMax) {
		ca, err := c.tryCA(ctx, token)
		var down *unreachable
		if err == nil || !errors.As(err, &down) {
			return ca, err
		}
		c.cfg.Logger.Debug("Waiting for the API server", logkey.Err, err)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("join %s: %w (last: %w)", c.cfg.Server, ctx.Err(), err)
		case <-time.After(delay):
		}
	}
}

// unreachable is a failure that time may heal.
type unreachable struct{ err error }

func (u *unreachable) Error() string { return u.err.Error() }
func (u *unreachable) Unwrap() error { return u.err }

func (c *Credential) tryCA(ctx context.Context, token Token) ([]byte, error) {
	ca, err := c.info(ctx, &tls.Config{InsecureSkipVerify: true}) // what comes is checked against the token's hash
	if err != nil {
		return nil, err
	}
	if err := token.checkCA(ca); err != nil {
		return nil, fmt.Errorf("join %s: %w", c.cfg.Server, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("join %s: the server's CA cannot be parsed", c.cfg.Server)
	}
	if _, err := c.info(ctx, &tls.Config{RootCAs: pool}); err != nil {
		return nil, fmt.Errorf("join %s: its certificate is not of the cluster's CA: %w", c.cfg.Server, err)
	}
	return ca, nil
}

// info reads the CA out of cluster-info.
func (c *Credential) info(ctx context.Context, tlsConfig *tls.Config) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.cfg.Server+clusterInfo, nil)
	if err != nil {
		return nil, fmt.Errorf("server: %q is not a URL: %w", c.cfg.Server, err)
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

// sign has a client certificate signed, authenticated by the token.
func (c *Credential) sign(ctx context.Context, token Token, ca []byte) error {
	client, err := kubernetes.NewForConfig(&rest.Config{
		Host: c.cfg.Server, BearerToken: token.Bearer, TLSClientConfig: rest.TLSClientConfig{CAData: ca},
	})
	if err != nil {
		return fmt.Errorf("make bootstrap client: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	req, err := cert.MakeCSR(key, subject(c.cfg.NodeName), nil, nil)
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	for delay := retryFirst; ; delay = min(delay*2, retryMax) {
		name, uid, err := csr.RequestCertificateWithContext(ctx, client, req, "", certificatesv1.KubeAPIServerClientKubeletSignerName, nil, clientUsages, key)
		if err == nil {
			pem, err := csr.WaitForCertificate(ctx, client, name, uid)
			if err != nil {
				return fmt.Errorf("wait for certificate request %q of node %q to be approved and signed: %w", name, c.cfg.NodeName, err)
			}
			if _, err := c.store.Update(pem, keyPEM); err != nil {
				return fmt.Errorf("keep client certificate: %w", err)
			}
			return nil
		}
		if ctx.Err() != nil || isRefused(err) {
			return fmt.Errorf("ask for a certificate for node %q: %w", c.cfg.NodeName, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

var clientUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}

func subject(node string) *pkix.Name {
	return &pkix.Name{CommonName: nodeUser(node), Organization: []string{"system:nodes"}}
}
