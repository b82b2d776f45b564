package agent

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/reevehq/reeve/tests/node"
)

// TestPodNetwork: each pod an address of its own in the node's range, reachable from the node and from pods, its own from
// inside, and gone with it.
func TestPodNetwork(t *testing.T) {
	s := open(t)
	s.pod("web", `{containers: [{name: c, image: `+responder+`}, {name: b, image: "`+node.BusyboxImage+`", command: [sleep, "1000"]}]}`)
	s.serving("web")
	p := s.now("web")
	if err := first(is("hostIP", p.Status.HostIP, node.IP), is("podIPs", len(p.Status.PodIPs), 1), is("podIP", p.Status.PodIP, p.Status.PodIPs[0].IP)); err != nil {
		t.Error(err)
	}
	s.fetch("http://" + p.Status.PodIP + ":8080/seen")
	if out, err := s.exec("web", "b", "ip", "-4", "-o", "addr", "show", "dev", "eth0"); err != nil || !strings.Contains(out, p.Status.PodIP+"/") {
		t.Errorf("eth0 inside: %q, %v", out, err)
	}
	for name, url := range map[string]string{"other": "http://" + p.Status.PodIP + ":8080/seen", "self": ""} {
		if name == "self" {
			if out, err := s.exec("web", "b", "fetch", "http://127.0.0.1:8080/seen"); err != nil || !strings.Contains(out, "host=127.0.0.1") {
				t.Errorf("a neighbour in the pod over loopback: %q, %v", out, err)
			}
			continue
		}
		if got := s.output(name, `{restartPolicy: Never, containers: [{name: c, command: [fetch, "`+url+`"]}]}`); !strings.Contains(got, "/seen host="+p.Status.PodIP) {
			t.Errorf("pod to pod: %q", got)
		}
	}
	s.pod("host", `{hostNetwork: true, containers: [{name: c, command: [sleep, "1000"]}]}`)
	if err := is("podIP with the host's network", s.ready("host").Status.PodIP, node.IP); err != nil {
		t.Error(err)
	}
}

// TestHostPort: a port of the node leads to the pod, by address and protocol, and no longer when the pod is gone.
func TestHostPort(t *testing.T) {
	s := open(t)
	s.pod("p", `{terminationGracePeriodSeconds: 1, containers: [{name: c, image: `+responder+`, ports: [{containerPort: 8080, hostPort: 30987}, {containerPort: 9000, hostPort: 30988, hostIP: `+node.IP+`}]}]}`)
	s.ready("p")
	s.fetch("http://" + node.IP + ":30987/seen")
	s.eventually("the port with an address", func() error {
		c, err := net.DialTimeout("tcp", node.IP+":30988", dialTimeout)
		if err == nil {
			c.Close()
		}
		return err
	})
	if c, err := net.DialTimeout("tcp", "127.0.0.1:30988", dialTimeout); err == nil {
		c.Close()
		t.Error("a hostPort with a hostIP answers on another address")
	}
	s.delete("p")
	s.gone("p")
	if c, err := net.DialTimeout("tcp", node.IP+":30987", dialTimeout); err == nil {
		c.Close()
		t.Error("the hostPort of a deleted pod answers")
	}
}

// TestPodDNS: resolv.conf under each policy, with the pod's own settings.
func TestPodDNS(t *testing.T) {
	s := open(t)
	search := "search " + s.ns + ".svc.cluster.local svc.cluster.local cluster.local"
	for name, c := range map[string]struct{ fields, want string }{
		"first":        {"dnsPolicy: ClusterFirst", search + "\nnameserver 10.96.0.10\noptions ndots:5\n"},
		"default":      {"dnsPolicy: Default", "nameserver " + node.OutsideIP + "\n"},
		"host":         {"dnsPolicy: ClusterFirst, hostNetwork: true", "nameserver " + node.OutsideIP + "\n"},
		"host-net":     {"dnsPolicy: ClusterFirstWithHostNet, hostNetwork: true", search + "\nnameserver 10.96.0.10\noptions ndots:5\n"},
		"none":         {"dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.53], searches: [a.example], options: [{name: ndots, value: \"2\"}, {name: rotate}]}", "search a.example\nnameserver 192.0.2.53\noptions ndots:2 rotate\n"},
		"first-config": {"dnsPolicy: ClusterFirst, dnsConfig: {searches: [a.example], options: [{name: ndots, value: \"2\"}]}", search + " a.example\nnameserver 10.96.0.10\noptions ndots:2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.sub(t)
			got := s.output(name, `{restartPolicy: Never, `+c.fields+`, containers: [{name: c, command: [cat, /etc/resolv.conf]}]}`)
			if strings.Join(sorted(strings.Split(got, "\n")), "\n") != strings.Join(sorted(strings.Split(c.want, "\n")), "\n") {
				t.Errorf("got:\n%s\nwant:\n%s", got, c.want)
			}
		})
	}
}

// TestPodNames: host name, subdomain, FQDN as host name, /etc/hosts with aliases, and a hosts file of the pod's own.
func TestPodNames(t *testing.T) {
	s := open(t)
	c := `containers: [{name: c, command: [sh, -c, "hostname; cat /etc/hosts"]}]`
	for name, x := range map[string]struct {
		fields, host string
		hosts        []string
	}{
		"plain": {"", "plain", []string{"localhost", "%s\tplain\n"}},
		"named": {"hostname: h, subdomain: sub, ", "h", []string{"%s\th.sub." + s.ns + ".svc.cluster.local\th\n"}},
		"fqdn":  {"hostname: h, subdomain: sub, setHostnameAsFQDN: true, ", "h.sub." + s.ns + ".svc.cluster.local", nil},
		"alias": {"hostAliases: [{ip: 192.0.2.7, hostnames: [a.example, b.example]}], ", "alias", []string{"192.0.2.7\ta.example\tb.example\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.sub(t)
			got := s.output(name, `{restartPolicy: Never, `+x.fields+c+`}`)
			host, hosts, _ := strings.Cut(got, "\n")
			if host != x.host {
				t.Errorf("host name is %q, want %q", host, x.host)
			}
			for _, want := range x.hosts {
				if strings.Contains(want, "%s") {
					want = fmt.Sprintf(want, s.now(name).Status.PodIP)
				}
				if !strings.Contains(hosts, want) {
					t.Errorf("/etc/hosts lacks %q:\n%s", want, hosts)
				}
			}
		})
	}
	t.Run("own file", func(t *testing.T) {
		s := s.sub(t)
		got := s.output("own", `{restartPolicy: Never, volumes: [{name: e, emptyDir: {}}], initContainers: [{name: i, command: [sh, -c, "echo mine > /e/hosts"], volumeMounts: [{name: e, mountPath: /e}]}],
 containers: [{name: c, command: [cat, /etc/hosts], volumeMounts: [{name: e, mountPath: /etc/hosts, subPath: hosts}]}]}`)
		if got != "mine\n" {
			t.Errorf("a mounted /etc/hosts reads %q", got)
		}
	})
	s.pod("host", `{hostNetwork: true, containers: [{name: c, command: [sleep, "1000"]}]}`)
	s.ready("host")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := s.exec("host", "c", "hostname"); err != nil || strings.TrimSpace(out) != host {
		t.Errorf("host name with the host's network: %q, %v; want %q", out, err, host)
	}
}
