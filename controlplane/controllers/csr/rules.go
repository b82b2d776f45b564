package csr

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	certv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
)

const (
	nodeUserPrefix = "system:node:"
	nodesGroup     = "system:nodes"
	mastersGroup   = "system:masters"
)

// parse reads the PEM request and checks that its sender holds the key.
func parse(raw []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("spec.request is not a PEM block of type CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse spec.request: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check signature of spec.request: %w", err)
	}
	return req, nil
}

func onlyUsages(have []certv1.KeyUsage, required certv1.KeyUsage, optional ...certv1.KeyUsage) bool {
	for _, u := range have {
		if u != required && !slices.Contains(optional, u) {
			return false
		}
	}
	return slices.Contains(have, required)
}

// nodeClient checks a request for a node's client certificate.
func nodeClient(req *x509.CertificateRequest, usages []certv1.KeyUsage) error {
	switch {
	case !slices.Equal(req.Subject.Organization, []string{nodesGroup}):
		return fmt.Errorf("subject organization is %v, not [%s]", req.Subject.Organization, nodesGroup)
	case !strings.HasPrefix(req.Subject.CommonName, nodeUserPrefix) || req.Subject.CommonName == nodeUserPrefix:
		return fmt.Errorf("subject common name %q does not begin with %q and a node's name", req.Subject.CommonName, nodeUserPrefix)
	case len(req.DNSNames)+len(req.EmailAddresses)+len(req.IPAddresses)+len(req.URIs) > 0:
		return errors.New("a client certificate has no subject alternative names")
	case !onlyUsages(usages, certv1.UsageClientAuth, certv1.UsageDigitalSignature, certv1.UsageKeyEncipherment):
		return fmt.Errorf("usages %v are not client auth, with digital signature and key encipherment at most", usages)
	}
	return nil
}

// nodeServing checks a request for a node's serving certificate.
func nodeServing(req *x509.CertificateRequest, usages []certv1.KeyUsage) error {
	switch {
	case !slices.Equal(req.Subject.Organization, []string{nodesGroup}):
		return fmt.Errorf("subject organization is %v, not [%s]", req.Subject.Organization, nodesGroup)
	case !strings.HasPrefix(req.Subject.CommonName, nodeUserPrefix) || req.Subject.CommonName == nodeUserPrefix:
		return fmt.Errorf("subject common name %q does not begin with %q and a node's name", req.Subject.CommonName, nodeUserPrefix)
	case len(req.DNSNames)+len(req.IPAddresses) == 0:
		return errors.New("a serving certificate needs a DNS name or an address")
	case len(req.EmailAddresses)+len(req.URIs) > 0:
		return errors.New("a node's serving certificate has no email addresses and URIs")
	case !onlyUsages(usages, certv1.UsageServerAuth, certv1.UsageDigitalSignature, certv1.UsageKeyEncipherment):
		return fmt.Errorf("usages %v are not server auth, with digital signature and key encipherment at most", usages)
	}
	return nil
}

// namesOf checks that a serving certificate names nothing but its node.
func namesOf(req *x509.CertificateRequest, node *v1.Node) error {
	for _, name := range req.DNSNames {
		ok := name == node.Name || name == "localhost"
		for _, a := range node.Status.Addresses {
			ok = ok || (a.Type == v1.NodeHostName || a.Type == v1.NodeInternalDNS || a.Type == v1.NodeExternalDNS) && strings.EqualFold(a.Address, name)
		}
		if !ok {
			return fmt.Errorf("DNS name %q is not one of node %q", name, node.Name)
		}
	}
	for _, ip := range req.IPAddresses {
		ok := ip.IsLoopback()
		for _, a := range node.Status.Addresses {
			ok = ok || ip.Equal(net.ParseIP(a.Address))
		}
		if !ok {
			return fmt.Errorf("address %s is not one of node %q", ip, node.Name)
		}
	}
	return nil
}

// check refuses what names the API server.
func (g Guarded) check(req *x509.CertificateRequest, node string) error {
	if node == g.LocalNode && node != "" {
		return nil
	}
	for _, name := range req.DNSNames {
		if name != "localhost" && slices.ContainsFunc(g.Names, func(n string) bool { return strings.EqualFold(n, name) }) {
			return fmt.Errorf("DNS name %q is the API server's", name)
		}
	}
	for _, ip := range req.IPAddresses {
		if !ip.IsLoopback() && slices.ContainsFunc(g.IPs, ip.Equal) {
			return fmt.Errorf("address %s is the API server's", ip)
		}
	}
	return nil
}

// notOthers refuses names and addresses that another node has too: one of the two is lying, or a Node object was left
// behind by a machine that is gone.
func notOthers(req *x509.CertificateRequest, node *v1.Node, all []*v1.Node) error {
	for _, other := range all {
		if other.Name == node.Name {
			continue
		}
		for _, a := range other.Status.Addresses {
			ip := net.ParseIP(a.Address)
			if ip != nil && !ip.IsLoopback() && slices.ContainsFunc(req.IPAddresses, ip.Equal) ||
				ip == nil && a.Address != "localhost" && slices.ContainsFunc(req.DNSNames, func(n string) bool { return strings.EqualFold(n, a.Address) }) {
				return fmt.Errorf("%s %q is node %q's too; delete that Node if it is gone", a.Type, a.Address, other.Name)
			}
		}
		if slices.ContainsFunc(req.DNSNames, func(n string) bool { return strings.EqualFold(n, other.Name) }) {
			return fmt.Errorf("DNS name %q is the name of another node", other.Name)
		}
	}
	return nil
}

// signable checks what each signer promises about what it signs.
func signable(signer string, req *x509.CertificateRequest, usages []certv1.KeyUsage) error {
	switch signer {
	case certv1.KubeAPIServerClientKubeletSignerName:
		return nodeClient(req, usages)
	case certv1.KubeletServingSignerName:
		return nodeServing(req, usages)
	case certv1.KubeAPIServerClientSignerName:
		if slices.Contains(req.Subject.Organization, mastersGroup) {
			return fmt.Errorf("organization %q must come from a certificate made by hand", mastersGroup)
		}
		if !onlyUsages(usages, certv1.UsageClientAuth, certv1.UsageDigitalSignature, certv1.UsageKeyEncipherment) {
			return fmt.Errorf("usages %v are not client auth, with digital signature and key encipherment at most", usages)
		}
	}
	return nil
}

func has(csr *certv1.CertificateSigningRequest, t certv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certv1.CertificateSigningRequestCondition) bool { return c.Type == t })
}
