package native

import (
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What callers may get wrong is refused before anything is made, with the field's name.

// maxHostname is the kernel's limit, HOST_NAME_MAX.
const maxHostname = 64

func checkSandbox(c *runtimeapi.PodSandboxConfig, systemd bool) error {
	m := c.GetMetadata()
	if m.GetName() == "" || m.GetNamespace() == "" || m.GetUid() == "" {
		return fmt.Errorf("metadata needs name, namespace and uid")
	}
	if err := checkPath("logDirectory", c.LogDirectory); err != nil {
		return err
	}
	if len(c.Hostname) > maxHostname || strings.ContainsAny(c.Hostname, "\x00\n/ ") {
		return fmt.Errorf("hostname %q is not a name of at most %d bytes", c.Hostname, maxHostname)
	}
	parent := c.GetLinux().GetCgroupParent()
	if slices.Contains(strings.Split(parent, "/"), "..") || strings.ContainsAny(parent, "\x00\n:") {
		return fmt.Errorf("linux.cgroupParent %q must be a plain path", parent)
	}
	if systemd && parent != "" && !strings.HasSuffix(parent, ".slice") {
		return fmt.Errorf("linux.cgroupParent %q must end with .slice: the cgroup driver is systemd", parent)
	}
	for _, p := range c.PortMappings {
		if p.HostPort < 0 || p.HostPort > 65535 || p.ContainerPort < 0 || p.ContainerPort > 65535 || p.HostPort > 0 && p.ContainerPort == 0 {
			return fmt.Errorf("portMappings: host port %d to container port %d: ports are 1 to 65535", p.HostPort, p.ContainerPort)
		}
		if _, known := runtimeapi.Protocol_name[int32(p.Protocol)]; !known {
			return fmt.Errorf("portMappings: protocol %d is unknown", p.Protocol)
		}
		if _, err := netip.ParseAddr(p.HostIp); p.HostIp != "" && err != nil {
			return fmt.Errorf("portMappings: hostIp %q is no IP address", p.HostIp)
		}
	}
	for field, list := range map[string][]string{"servers": c.GetDnsConfig().GetServers(), "searches": c.GetDnsConfig().GetSearches(), "options": c.GetDnsConfig().GetOptions()} {
		for _, v := range list {
			if v == "" || strings.ContainsAny(v, " \t\n\r\x00") {
				return fmt.Errorf("dnsConfig.%s: %q is not one word", field, v)
			}
		}
	}
	if n := len(c.GetDnsConfig().GetSearches()); n > maxSearches {
		return fmt.Errorf("dnsConfig has %d search domains, at most %d are possible", n, maxSearches)
	}
	return nil
}

func checkContainer(c *runtimeapi.ContainerConfig) error {
	if c.GetMetadata().GetName() == "" {
		return fmt.Errorf("metadata needs a name")
	}
	if c.WorkingDir != "" && !path.IsAbs(c.WorkingDir) {
		return fmt.Errorf("workingDir %q must be an absolute path", c.WorkingDir)
	}
	for _, e := range c.Envs {
		if e.Key == "" || strings.ContainsAny(e.Key, "=\x00") || slices.Contains(e.Value, 0) {
			return fmt.Errorf("envs: %q is not the name of a variable, or its value has a zero byte", e.Key)
		}
	}
	for _, word := range slices.Concat(c.Command, c.Args) {
		if strings.Contains(word, "\x00") {
			return fmt.Errorf("command or args: %q has a zero byte", word)
		}
	}
	if _, known := runtimeapi.Signal_name[int32(c.StopSignal)]; !known {
		return fmt.Errorf("stopSignal %d is unknown", c.StopSignal)
	}
	return nil
}

// checkPath refuses a path on the host that is relative or climbs.
func checkPath(field, p string) error {
	if p != "" && (!filepath.IsAbs(p) || slices.Contains(strings.Split(p, "/"), "..") || strings.Contains(p, "\x00")) {
		return fmt.Errorf("%s %q must be an absolute path without \"..\"", field, p)
	}
	return nil
}
