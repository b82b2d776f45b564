package csr

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	authzv1 "k8s.io/api/authorization/v1"
	certv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var clientUsages = []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageClientAuth}
var serverUsages = []certv1.KeyUsage{certv1.UsageDigitalSignature, certv1.UsageServerAuth}

func authority(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func request(t *testing.T, cn, org string, change func(*x509.CertificateRequest)) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}
	if org != "" {
		r.Subject.Organization = []string{org}
	}
	if change != nil {
		change(r)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, r, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func withIP(ips ...string) func(*x509.CertificateRequest) {
	return func(r *x509.CertificateRequest) {
		for _, s := range ips {
			r.IPAddresses = append(r.IPAddresses, net.ParseIP(s))
		}
	}
}

func csrOf(name, user, signer string, raw []byte, usages []certv1.KeyUsage, groups ...string) *certv1.CertificateSigningRequest {
	return &certv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Now()},
		Spec:       certv1.CertificateSigningRequestSpec{Request: raw, SignerName: signer, Usages: usages, Username: user, Groups: groups},
	}
}

func TestNodesGetTheirCertificatesAndOthersDoNot(t *testing.T) {
	ca, key := authority(t)
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1.NodeStatus{Addresses: []v1.NodeAddress{
		{Type: v1.NodeInternalIP, Address: "10.0.0.7"}, {Type: v1.NodeHostName, Address: "n1"}}}}
	const client, serving = certv1.KubeAPIServerClientKubeletSignerName, certv1.KubeletServingSignerName
	other := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n9"}, Status: v1.NodeStatus{Addresses: []v1.NodeAddress{
		{Type: v1.NodeInternalIP, Address: "10.0.0.9"}, {Type: v1.NodeHostName, Address: "n9"}}}}
	// n1 has written addresses into its status that are not its own.
	node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeExternalIP, Address: "10.0.0.9"},
		v1.NodeAddress{Type: v1.NodeExternalIP, Address: "10.0.0.1"}, v1.NodeAddress{Type: v1.NodeExternalDNS, Address: "kubernetes.default.svc"})
	local := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "server"}, Status: v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.2"}}}}
	c := looptest.New(t, node, other, local,
		csrOf("bootstrap", "system:bootstrap:abcdef", client, request(t, "system:node:n2", "system:nodes", nil), clientUsages, "system:bootstrappers"),
		csrOf("renewal", "system:node:n1", client, request(t, "system:node:n1", "system:nodes", nil), clientUsages, "system:nodes"),
		csrOf("serving", "system:node:n1", serving, request(t, "system:node:n1", "system:nodes", withIP("10.0.0.7", "127.0.0.1")), serverUsages, "system:nodes"),
		csrOf("serving-foreign-ip", "system:node:n1", serving, request(t, "system:node:n1", "system:nodes", withIP("10.0.0.8")), serverUsages, "system:nodes"),
		csrOf("serving-other-node", "system:node:n1", serving, request(t, "system:node:n1", "system:nodes", withIP("10.0.0.9")), serverUsages, "system:nodes"),
		csrOf("serving-api", "system:node:n1", serving, request(t, "system:node:n1", "system:nodes", withIP("10.0.0.1")), serverUsages, "system:nodes"),
		csrOf("serving-api-name", "system:node:n1", serving, request(t, "system:node:n1", "system:nodes", func(r *x509.CertificateRequest) { r.DNSNames = []string{"kubernetes.default.svc"} }), serverUsages, "system:nodes"),
		csrOf("serving-local", "system:node:server", serving, request(t, "system:node:server", "system:nodes", withIP("10.0.0.2")), serverUsages, "system:nodes"),
		csrOf("serving-for-another", "system:node:n1", serving, request(t, "system:node:n2", "system:nodes", withIP("10.0.0.7")), serverUsages, "system:nodes"),
		csrOf("admin", "system:node:n1", client, request(t, "admin", "system:masters", nil), clientUsages, "system:nodes"),
		csrOf("nobody", "mallory", client, request(t, "system:node:n3", "system:nodes", nil), clientUsages),
		csrOf("server-as-client", "system:node:n1", client, request(t, "system:node:n1", "system:nodes", nil), append(clientUsages, certv1.UsageServerAuth), "system:nodes"),
	)
	c.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authzv1.SubjectAccessReview).DeepCopy()
		sub := r.Spec.ResourceAttributes.Subresource
		r.Status.Allowed = r.Spec.User == "system:bootstrap:abcdef" && sub == "nodeclient" || r.Spec.User == "system:node:n1" && sub == "selfnodeclient"
		return true, r, nil
	})
	c.Run(NewApprover(c.Env, Guarded{Names: []string{"kubernetes.default.svc"}, IPs: []net.IP{net.ParseIP("10.0.0.1"), net.ParseIP("10.0.0.2")}, LocalNode: "server"}))
	c.Run(NewSigner(c.Env, ca, key, 24*time.Hour))
	get := func(name string) *certv1.CertificateSigningRequest {
		r, err := c.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for name, cn := range map[string]string{"bootstrap": "system:node:n2", "renewal": "system:node:n1", "serving": "system:node:n1", "serving-local": "system:node:server"} {
		c.Eventually("certificate of "+name, func() error {
			if len(get(name).Status.Certificate) == 0 {
				return fmt.Errorf("status %+v", get(name).Status)
			}
			return nil
		})
		block, _ := pem.Decode(get(name).Status.Certificate)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		usage := x509.ExtKeyUsageClientAuth
		if strings.HasPrefix(name, "serving") {
			usage = x509.ExtKeyUsageServerAuth
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if cert.Subject.CommonName != cn || cert.NotAfter.Sub(cert.NotBefore) > 24*time.Hour+backdate {
			t.Errorf("%s: subject %v, from %s to %s", name, cert.Subject, cert.NotBefore, cert.NotAfter)
		}
	}
	for _, name := range []string{"serving-foreign-ip", "serving-other-node", "serving-api", "serving-api-name", "serving-for-another", "admin", "nobody", "server-as-client"} {
		if r := get(name); len(r.Status.Conditions) != 0 || len(r.Status.Certificate) != 0 {
			t.Errorf("%s was dealt with: %+v", name, r.Status)
		}
	}
	// Once the other node is gone, its address is free.
	if err := c.CoreV1().Nodes().Delete(t.Context(), "n9", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the freed address's certificate", func() error {
		if len(get("serving-other-node").Status.Certificate) == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	// Once the node has the address, its request goes through.
	node = node.DeepCopy()
	node.Status.Addresses = append(node.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: "10.0.0.8"})
	if _, err := c.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the address's certificate", func() error {
		if len(get("serving-foreign-ip").Status.Certificate) == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
}

func TestApprovedRequestThatBreaksTheSignersRulesFails(t *testing.T) {
	ca, key := authority(t)
	r := csrOf("masters", "admin", certv1.KubeAPIServerClientSignerName, request(t, "x", "system:masters", nil), clientUsages)
	r.Status.Conditions = []certv1.CertificateSigningRequestCondition{{Type: certv1.CertificateApproved, Status: v1.ConditionTrue}}
	c := looptest.New(t, r)
	c.Run(NewSigner(c.Env, ca, key, time.Hour))
	c.Eventually("the failure", func() error {
		got, err := c.CertificatesV1().CertificateSigningRequests().Get(t.Context(), "masters", metav1.GetOptions{})
		if err != nil || !has(got, certv1.CertificateFailed) || len(got.Status.Certificate) > 0 {
			return fmt.Errorf("%+v, %v", got.Status, err)
		}
		if m := got.Status.Conditions[1].Message; !strings.Contains(m, "system:masters") {
			t.Errorf("message %q does not name the organization", m)
		}
		return nil
	})
}

func TestDeadlineAndLifetime(t *testing.T) {
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := &certv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}}
	if got := deadline(r); !got.Equal(made.Add(keepPending)) {
		t.Errorf("pending until %s", got)
	}
	at := metav1.NewTime(made.Add(time.Minute))
	r.Status.Conditions = []certv1.CertificateSigningRequestCondition{{Type: certv1.CertificateDenied, LastUpdateTime: at}}
	if got := deadline(r); !got.Equal(at.Add(keepDecided)) {
		t.Errorf("denied until %s", got)
	}
	for asked, want := range map[int32]time.Duration{60: shortest, 3600: time.Hour, 1 << 30: 24 * time.Hour} {
		if got := lifetime(ptr.To(asked), 24*time.Hour); got != want {
			t.Errorf("lifetime(%d) = %s, want %s", asked, got, want)
		}
	}
}
