package env

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// selectServices are the Services that a pod's environment describes: those of its namespace with links enabled, and
// default/kubernetes always. Services without a cluster IP have nothing to describe.
func selectServices(all []*corev1.Service, namespace string, links bool) []*corev1.Service {
	var out []*corev1.Service
	var master *corev1.Service
	shadowed := false
	for _, s := range all {
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
			continue
		}
		if s.Namespace == corev1.NamespaceDefault && s.Name == "kubernetes" {
			master = s
			if namespace == corev1.NamespaceDefault {
				continue
			}
		}
		if links && s.Namespace == namespace {
			shadowed = shadowed || s.Name == "kubernetes"
			out = append(out, s)
		}
	}
	if master != nil && !shadowed {
		out = append(out, master)
	}
	slices.SortFunc(out, func(a, b *corev1.Service) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// serviceVars are the variables of Services as kubelet names them: NAME_SERVICE_HOST, NAME_SERVICE_PORT[_PORTNAME], and
// the older NAME_PORT_80_TCP family of container links.
func serviceVars(services []*corev1.Service) []Var {
	var out []Var
	for _, s := range services {
		if len(s.Spec.Ports) == 0 {
			continue
		}
		p := upper(s.Name)
		ip := s.Spec.ClusterIP
		out = append(out, Var{p + "_SERVICE_HOST", ip}, Var{p + "_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port))})
		for i := range s.Spec.Ports {
			if sp := &s.Spec.Ports[i]; sp.Name != "" {
				out = append(out, Var{p + "_SERVICE_PORT_" + upper(sp.Name), strconv.Itoa(int(sp.Port))})
			}
		}
		for i := range s.Spec.Ports {
			sp := &s.Spec.Ports[i]
			proto := string(sp.Protocol)
			if proto == "" {
				proto = "TCP"
			}
			port := strconv.Itoa(int(sp.Port))
			url := strings.ToLower(proto) + "://" + net.JoinHostPort(ip, port)
			if i == 0 {
				out = append(out, Var{p + "_PORT", url})
			}
			link := p + "_PORT_" + port + "_" + strings.ToUpper(proto)
			out = append(out, Var{link, url}, Var{link + "_PROTO", strings.ToLower(proto)}, Var{link + "_PORT", port}, Var{link + "_ADDR", ip})
		}
	}
	return out
}

func upper(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
