package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/certificate"

	"github.com/reevehq/reeve/internal/logkey"
)

// KubeconfigConfig of FromKubeconfig, with kubelet's flags' meanings.
type KubeconfigConfig struct {
	// Kubeconfig names the API server and the node's credential; it is written when it is not there. Bootstrap is the
	// kubeconfig to ask for the first certificate with, and for another when the node's has expired; empty: there is none.
	Kubeconfig, Bootstrap string
	// CertDir holds kubelet-client-current.pem.
	CertDir string
	// Rotate renews the client certificate (rotateCertificates). With Bootstrap it is renewed in any case: a node that
	// can is not left to fall silent after a year.
	Rotate   bool
	NodeName string
	Logger   *slog.Logger
}

// ErrKubeconfig is in errors that only a person can mend: a kubeconfig that is not there or cannot be used.
var ErrKubeconfig = errors.New("kubeconfig cannot be used")

// FromKubeconfig returns the node's credential as kubelet finds it: from Kubeconfig, else signed for what Bootstrap holds.
// For the first certificate it waits until ctx ends; with one, expired or not, it returns at once.
func FromKubeconfig(ctx context.Context, cfg KubeconfigConfig) (*Credential, error) {
	c := &Credential{node: cfg.NodeName, log: cfg.Logger}
	if cfg.Bootstrap != "" {
		c.renewer = func() (kubernetes.Interface, error) { return bootstrapClient(cfg.Bootstrap) }
		c.mend = "see that --bootstrap-kubeconfig " + cfg.Bootstrap + " holds a valid token and that the API server can be reached"
	} else {
		c.mend = "put a new certificate into " + cfg.Kubeconfig + ", or give --bootstrap-kubeconfig"
	}
	if err := CheckKubeconfigs(cfg.Kubeconfig, cfg.Bootstrap); err != nil {
		return nil, err
	}
	if _, err := os.Stat(cfg.Kubeconfig); errors.Is(err, fs.ErrNotExist) {
		if err := c.first(ctx, cfg); err != nil {
			return nil, err
		}
	}
	base, err := clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("%w: --kubeconfig %q: %w", ErrKubeconfig, cfg.Kubeconfig, err)
	}
	own, err := ownPair(base)
	if err != nil && cfg.Bootstrap == "" {
		return nil, fmt.Errorf("%w: --kubeconfig %q: %w", ErrKubeconfig, cfg.Kubeconfig, err)
	}
	if own == nil && err == nil || !cfg.Rotate && cfg.Bootstrap == "" {
		// A token, a plugin, or a certificate that somebody else renews: client-go follows the files by itself.
		if own != nil && time.Now().After(own.Leaf.NotAfter) {
			cfg.Logger.Error("The node's client certificate has expired: the API server does not hear this node; its pods run on",
				"expired", own.Leaf.NotAfter, "fix", c.mend)
		}
		c.REST, c.store = base, nil
		return c, nil
	}
	if c.store, err = openStore(cfg.CertDir); err != nil {
		return nil, err
	}
	pair := newest(c.store, own)
	if pair == nil {
		// The kubeconfig points to a certificate that is gone.
		if err := c.first(ctx, cfg); err != nil {
			return nil, err
		}
		if pair, err = c.store.Current(); err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
	}
	if cn := pair.Leaf.Subject.CommonName; cn != nodeUser(cfg.NodeName) {
		cfg.Logger.Warn("The client certificate is not this node's: the API server will refuse what it writes", "user", cn, logkey.Node, cfg.NodeName)
	}
	c.show(pair)
	return c, c.use(base)
}

// CheckKubeconfigs tells, before anything is started, what FromKubeconfig could not work with: an ErrKubeconfig.
//
// A bootstrap kubeconfig that is not there is a mistake only while it is needed: kubeadm removes it once a node has joined.
func CheckKubeconfigs(kubeconfig, bootstrap string) error {
	_, joined := os.Stat(kubeconfig)
	_, gone := os.Stat(bootstrap)
	if bootstrap != "" && (joined != nil || gone == nil) {
		if _, err := bootstrapClient(bootstrap); err != nil {
			return err
		}
	}
	if errors.Is(joined, fs.ErrNotExist) {
		if bootstrap == "" {
			return fmt.Errorf("%w: --kubeconfig %q is not there and no --bootstrap-kubeconfig is given", ErrKubeconfig, kubeconfig)
		}
		return nil
	}
	if _, err := clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		return fmt.Errorf("%w: --kubeconfig %q: %w", ErrKubeconfig, kubeconfig, err)
	}
	return nil
}

// first has the node's first certificate signed and writes the kubeconfig. A valid one of an earlier start is kept.
func (c *Credential) first(ctx context.Context, cfg KubeconfigConfig) error {
	store, err := openStore(cfg.CertDir)
	if err != nil {
		return err
	}
	pair, err := store.Current()
	if err != nil || pair.Leaf == nil || pair.Leaf.Subject.CommonName != nodeUser(cfg.NodeName) || time.Now().After(pair.Leaf.NotAfter) {
		client, err := bootstrapClient(cfg.Bootstrap)
		if err != nil {
			return err
		}
		cfg.Logger.Info("Asking for the node's first certificate", logkey.Node, cfg.NodeName)
		certPEM, keyPEM, err := request(ctx, client, cfg.NodeName, cfg.Logger)
		if err != nil {
			return fmt.Errorf("join with --bootstrap-kubeconfig %q: %w", cfg.Bootstrap, err)
		}
		if _, err := store.Update(certPEM, keyPEM); err != nil {
			return fmt.Errorf("keep client certificate: %w", err)
		}
		cfg.Logger.Info("Joined the cluster", logkey.Node, cfg.NodeName)
	}
	cluster, err := clusterOf(cfg.Bootstrap)
	if err != nil {
		return err
	}
	return writeKubeconfig(cfg.Kubeconfig, "default-cluster", cluster, store.CurrentPath())
}

func bootstrapClient(path string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("%w: --bootstrap-kubeconfig %q: %w", ErrKubeconfig, path, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make bootstrap client: %w", err)
	}
	return client, nil
}

// clusterOf is the API server that a kubeconfig's current context names.
func clusterOf(path string) (*clientcmdapi.Cluster, error) {
	kc, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrKubeconfig, path, err)
	}
	if at := kc.Contexts[kc.CurrentContext]; at != nil && kc.Clusters[at.Cluster] != nil {
		return kc.Clusters[at.Cluster], nil
	}
	return nil, fmt.Errorf("%w: %q: its current context %q names no cluster", ErrKubeconfig, path, kc.CurrentContext)
}

// ownPair is the client certificate that a kubeconfig holds or points to; nil for one that authenticates otherwise.
func ownPair(config *rest.Config) (*tls.Certificate, error) {
	cert, key := config.CertData, config.KeyData
	var err error
	if len(cert) == 0 && config.CertFile != "" {
		if cert, err = os.ReadFile(config.CertFile); err != nil {
			return nil, fmt.Errorf("read the client certificate: %w", err)
		}
	}
	if len(key) == 0 && config.KeyFile != "" {
		if key, err = os.ReadFile(config.KeyFile); err != nil {
			return nil, fmt.Errorf("read the client certificate's key: %w", err)
		}
	}
	if len(cert) == 0 {
		return nil, nil
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("use the client certificate: %w", err)
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, fmt.Errorf("use the client certificate: %w", err)
		}
	}
	return &pair, nil
}

// newest is whichever of the store's and the kubeconfig's own certificate holds longer: a kubeconfig that kubeadm wrote
// has the first one in it for ever. nil: there is none.
func newest(store certificate.FileStore, own *tls.Certificate) *tls.Certificate {
	kept, err := store.Current()
	if err != nil || kept.Leaf == nil {
		return own
	}
	if own != nil && own.Leaf.NotAfter.After(kept.Leaf.NotAfter) {
		return own
	}
	return kept
}
