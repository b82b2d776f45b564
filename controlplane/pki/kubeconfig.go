package pki

import (
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// WriteKubeconfig writes a kubeconfig for the client certificate pair to path, 0600, everything embedded. name is that
// of cluster, context and user.
func (p *PKI) WriteKubeconfig(path, server, name string, client *Pair) error {
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: p.CA.CertPEM}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: client.CertPEM, ClientKeyData: client.KeyPEM}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	raw, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("serialise kubeconfig: %w", err)
	}
	return writeFile(path, raw)
}
