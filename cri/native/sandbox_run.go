package native

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/native/spec"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/podnet"
)

// RunPodSandbox makes the pod's folder, namespaces, network and pause container. Where the containers find the namespaces
// without pause, that one follows in the background; see pauseSoon. Else it is made beside the network. When something
// fails, everything is undone and the name is free again.
func (r *Runtime) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	m := config.GetMetadata()
	if err := checkSandbox(config, r.host.SystemdCgroup); err != nil {
		return "", status.Errorf(codes.InvalidArgument, "sandbox config: %v", err)
	}
	if _, ok := r.cfg.Handlers[handler]; !ok {
		return "", status.Errorf(codes.InvalidArgument, "runtime handler %q is not configured on this node", handler)
	}
	if config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions().GetMode() == runtimeapi.NamespaceMode_POD &&
		config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions() != nil {
		return "", status.Error(codes.FailedPrecondition, "sandbox config: namespaceOptions.usernsOptions: this runtime has no user namespaces yet (hostUsers: false)")
	}
	if handler == "" {
		handler = r.cfg.DefaultHandler
	}
	now := time.Now()
	s := newSandbox(newID())
	s.created, s.boot, s.taskless = now, bootID(), true
	s.rec = sandboxRecord{
		Version: recordVersion, Config: protoJSON[*runtimeapi.PodSandboxConfig]{proto.Clone(config).(*runtimeapi.PodSandboxConfig)},
		Handler: handler, Made: now, Cgroup: r.host.CgroupsPath(config.GetLinux().GetCgroupParent(), s.id), Pinned: r.pinnable(config, handler),
	}
	if cg := r.podCgroup(s); cg != "" {
		if n := r.cgroups.OOMKills(cg); n != nil {
			s.rec.OOMKills, s.oomKills = *n, *n
		}
	}
	name := sandboxName(m)
	if err := r.store.reserve(name, s.id); err != nil {
		return "", err
	}
	s.op <- struct{}{}
	defer func() { <-s.op }()
	r.store.mu.Lock()
	r.store.sandboxes[s.id] = s // listed only once ready; here so that its pause's exit finds it
	r.store.mu.Unlock()

	if err := r.makeSandbox(ctx, s); err != nil {
		err = fmt.Errorf("run sandbox of pod %s/%s: %w", m.Namespace, m.Name, err)
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if uerr := r.eraseSandbox(cctx, s); uerr != nil {
			// It stays listed as not ready, so that whoever removes dead sandboxes tries again; the name is free.
			r.log.Error("Could not undo a failed sandbox", logkey.SandboxID, s.id, logkey.Err, uerr)
			r.store.mu.Lock()
			s.state = sandboxNotReady
			r.store.mu.Unlock()
		} else {
			r.store.mu.Lock()
			delete(r.store.sandboxes, s.id)
			r.store.mu.Unlock()
		}
		r.store.release(name, s.id)
		r.kickGC() // a shim that did not start well may still run
		return "", toStatus(err)
	}
	r.log.Info("Started pod sandbox", logkey.Pod, m.Namespace+"/"+m.Name, logkey.SandboxID, s.id, logkey.Duration, time.Since(now).Round(time.Millisecond))
	r.publish(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, s.id, s.id)
	r.publish(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, s.id, s.id)
	if s.rec.Pinned {
		r.pauseSoon(s, false)
	}
	return s.id, nil
}

// makeSandbox is the ladder. Each rung is safe to undo by eraseSandbox whether or not it was climbed.
func (r *Runtime) makeSandbox(ctx context.Context, s *sandbox) (err error) {
	config := s.rec.Config.M
	if err := r.makeSandboxDir(s); err != nil {
		return err
	}
	hostNet := hostNetwork(config)
	if !hostNet {
		if r.cfg.Network == nil {
			return errors.New("no pod network is configured")
		}
		nctx, cancel := context.WithTimeout(ctx, networkTimeout)
		defer cancel()
		path, err := r.cfg.Network.NewNamespace(nctx, s.id)
		if err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		s.rec.NetNS = path
	}
	p, err := r.pauseParts(ctx)
	if err != nil {
		return err
	}
	sp, err := spec.Sandbox(spec.SandboxInput{
		Host: r.host, ID: s.id, Config: config, NetNS: s.rec.NetNS, Pins: r.pinsOf(s), Command: p.command, Env: p.env, UID: p.uid, GID: p.gid, Own: p.shared != nil,
	})
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	rootfs, snapshotKey := p.shared, ""
	if rootfs == nil {
		snapshotKey = s.id
		if rootfs, _, err = r.prepareSnapshot(ctx, s.id, p.chainID); err != nil {
			return err
		}
	}
	labels := map[string]string{labelKind: kindSandbox, labelSandbox: s.id}
	if err := r.createRecord(ctx, s.id, s.rec.Handler, sp, labels, s.rec, snapshotKey, p.ref); err != nil {
		return err
	}

	// The two slow parts, side by side. If one fails, the other still runs to its end, bounded by its own deadline: undoing
	// a half-made network or task is what plugins and shims get wrong.
	var both sync.WaitGroup
	var netErr, taskErr error
	var result podnet.Result
	var pid uint32
	var fd pidfd
	defer func() {
		if err != nil {
			fd.close()
		}
	}()
	if !hostNet {
		both.Go(func() {
			nctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), networkTimeout)
			defer cancel()
			if result, netErr = r.cfg.Network.Add(nctx, networkRequest(s)); netErr != nil {
				netErr = fmt.Errorf("set up network: %w", netErr)
			}
		})
	}
	if s.rec.Pinned {
		taskErr = r.pin(s)
	} else if pid, fd, taskErr = r.startPause(ctx, s, rootfs); taskErr != nil {
		taskErr = fmt.Errorf("start pause container: %w", taskErr)
	}
	both.Wait()
	if err := errors.Join(netErr, taskErr, ctx.Err()); err != nil {
		return err
	}
	rec := networkRecord{Version: recordVersion, Raw: result.Raw, Boot: s.boot, PID: pid}
	for _, ip := range result.IPs {
		rec.IPs = append(rec.IPs, ip.String())
	}
	if err := writeJSON(filepath.Join(r.sandboxDir(s.id), "network.json"), rec, false); err != nil {
		return fmt.Errorf("keep network result: %w", err)
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	select {
	case <-s.exited:
		return errors.New("pause container ended at once")
	default:
	}
	s.pid, s.net, s.state, s.pidfd = pid, result, sandboxReady, fd
	return nil
}

// startPause makes and starts the pause container. From here on a caller that gives up must not leave a task that nobody
// knows: the calls have deadlines of their own.
func (r *Runtime) startPause(ctx context.Context, s *sandbox, rootfs mountList) (pid uint32, fd pidfd, err error) {
	leave, err := r.gate.enter(ctx, gateSandbox)
	if err != nil {
		return 0, 0, err
	}
	defer leave()
	r.store.mu.Lock()
	s.taskless = false
	r.store.mu.Unlock()
	ctx = context.WithoutCancel(ctx)
	if pid, err = r.createTask(ctx, s.id, rootfs, taskIO{}); err != nil {
		return 0, 0, err
	}
	fd = r.openPidfd(s.rec.Handler, pid)
	r.learnShims(pid)
	_, err = r.startTask(ctx, s.id, "")
	return pid, fd, err
}

func hostNetwork(c *runtimeapi.PodSandboxConfig) bool {
	return c.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
}

// shmBytes is the size of a pod's /dev/shm, as Docker and containerd have it.
const shmBytes = 64 << 20

// makeSandboxDir makes the files that the pod's containers share: resolv.conf, hostname, hosts and /dev/shm.
func (r *Runtime) makeSandboxDir(s *sandbox) error {
	config, dir := s.rec.Config.M, r.sandboxDir(s.id)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make sandbox folder: %w", err)
	}
	if config.LogDirectory != "" {
		if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
			return fmt.Errorf("make log directory: %w", err)
		}
	}
	hostname := s.hostname()
	resolv, err := resolvConf(config.GetDnsConfig())
	if err != nil {
		return err
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		hosts = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	}
	for name, data := range map[string][]byte{"hostname": []byte(hostname + "\n"), "resolv.conf": resolv, "hosts": hosts} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("write the pod's %s: %w", name, err)
		}
	}
	if config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc() == runtimeapi.NamespaceMode_NODE {
		return nil
	}
	s.rec.Shm = filepath.Join(dir, "shm")
	if err := os.MkdirAll(s.rec.Shm, 0o711); err != nil {
		return fmt.Errorf("make /dev/shm: %w", err)
	}
	if err := unix.Mount("shm", s.rec.Shm, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,size=%d", shmBytes)); err != nil {
		return fmt.Errorf("mount /dev/shm: %w", err)
	}
	return nil
}

// hostname is the sandbox's, or the node's on its network.
func (s *sandbox) hostname() string {
	c := s.rec.Config.M
	if c.Hostname != "" && !hostNetwork(c) {
		return c.Hostname
	}
	h, err := os.Hostname()
	if err != nil || c.Hostname != "" && !hostNetwork(c) {
		return c.Hostname
	}
	return h
}

// Limits of resolv.conf as Kubernetes allows them; libc before 2.26 stops earlier, which is its user's choice.
const maxSearches = 32

// resolvConf renders the pod's DNS configuration; without one the host's file is taken.
func resolvConf(c *runtimeapi.DNSConfig) ([]byte, error) {
	if c == nil || len(c.Servers)+len(c.Searches)+len(c.Options) == 0 {
		b, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read the host's resolv.conf: %w", err)
		}
		return b, nil
	}
	var b strings.Builder
	if len(c.Searches) > 0 {
		b.WriteString("search " + strings.Join(c.Searches, " ") + "\n")
	}
	for _, s := range c.Servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(c.Options) > 0 {
		b.WriteString("options " + strings.Join(c.Options, " ") + "\n")
	}
	return []byte(b.String()), nil
}

// networkRequest is the same for ADD, CHECK and DEL.
func networkRequest(s *sandbox) podnet.Request {
	c := s.rec.Config.M
	req := podnet.Request{
		SandboxID: s.id, NetNS: s.rec.NetNS, PodNamespace: c.Metadata.Namespace, PodName: c.Metadata.Name, PodUID: c.Metadata.Uid,
		Annotations: c.Annotations, Labels: c.Labels, CgroupParent: c.GetLinux().GetCgroupParent(),
		DNSServers: c.GetDnsConfig().GetServers(), DNSSearches: c.GetDnsConfig().GetSearches(), DNSOptions: c.GetDnsConfig().GetOptions(),
	}
	for _, p := range c.PortMappings {
		if p.HostPort <= 0 {
			continue
		}
		ip, _ := netip.ParseAddr(p.HostIp)
		req.Ports = append(req.Ports, podnet.PortMapping{
			HostIP: ip, HostPort: uint16(p.HostPort), ContainerPort: uint16(p.ContainerPort), Protocol: podnet.Protocol(p.Protocol.String()),
		})
	}
	return req
}
