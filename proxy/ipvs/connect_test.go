package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/proxy/plan"
)

// Connections are measured two at a time in each way, the ways in turns and in both orders; the first rounds are not counted.
const (
	connectRounds = 2000
	warmUpRounds  = 100
)

// connects measures connections through one more Service of the backend's, and in turns those through one bare virtual
// service of a node that has nothing else but tracked connections and a rule that masquerades.
func connects(t *testing.T, b *Backend, n int) {
	type stage struct {
		node, client, pod testns.Host
		ip                string // of the node
	}
	stages := []stage{{ip: "ip"}, {node: testns.NewHost(t, "bare"), ip: "ip -n bare"}}
	for i := range stages {
		s := &stages[i]
		s.client, s.pod = testns.NewHost(t, fmt.Sprint("client", i)), testns.NewHost(t, fmt.Sprint("pod", i))
		for j, h := range []testns.Host{s.client, s.pod} {
			testns.Sh(t, `ip link add v%[1]s type veth peer name eth0 netns %[1]s
				test -z "%[2]s" || ip link set v%[1]s netns "%[2]s"
				%[3]s addr add 10.244.3.1/32 dev v%[1]s; %[3]s link set v%[1]s up
				ip -n %[1]s addr add 10.244.3.%[4]d/32 dev eth0; ip -n %[1]s link set eth0 up; ip -n %[1]s route add default via 10.244.3.1 dev eth0 onlink
				%[3]s route add 10.244.3.%[4]d/32 dev v%[1]s`, h.Name, s.node.Name, s.ip, 10+j)
		}
		s.pod.Serve(t, "pod", ":8080")
		if err := s.node.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { testns.Sh(t, "ip link del vclient0; ip link del vpod0; true") })
	const vip = "10.95.0.1"
	set := func(path, value string) error { return os.WriteFile("/proc/sys/"+path, []byte(value), 0) }
	if err := Prepare(false, set); err != nil {
		t.Fatal(err)
	}
	testns.Sh(t, `ip netns exec bare sh -ec 'echo 1 > /proc/sys/net/ipv4/vs/conntrack; ip addr add %s/32 dev lo; ipvsadm -A -t %[1]s:80 -s rr; ipvsadm -a -t %[1]s:80 -r 10.244.3.11:8080 -m
		nft add table ip tracks; nft "add chain ip tracks in { type nat hook prerouting priority -100; }"; nft "add chain ip tracks out { type nat hook postrouting priority 100; }"
		nft add rule ip tracks out meta mark 0x4000 masquerade'`, vip)
	svc := plan.Service{
		Name: plan.Name{Namespace: "default", Name: "measured"}, ClusterIPs: []netip.Addr{netip.MustParseAddr(vip)},
		Ports: []plan.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
	}
	p := plan.Plan(plan.Facts{NodeName: "here"}, svc, []plan.Slice{{
		Service: svc.Name, Ports: []plan.SlicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 8080}},
		Endpoints: []plan.SliceEndpoint{{Addr: netip.MustParseAddr("10.244.3.11"), Ready: true, Serving: true, NodeName: "here"}},
	}})
	if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{svc.Name: &p}, false); err != nil {
		t.Fatal(err)
	}
	to := &unix.SockaddrInet4{Addr: netip.MustParseAddr(vip).As4(), Port: 80}
	var took [2][]time.Duration
	for round := range warmUpRounds + connectRounds {
		for j := range stages {
			n := (round + j) % len(stages)
			err := stages[n].client.Do(func() error {
				for range 2 {
					d, err := connect(to)
					if err != nil {
						return err
					}
					if round >= warmUpRounds {
						took[n] = append(took[n], d)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatalf("connect through %s: %v", stages[n].node, err)
			}
		}
	}
	if tracked := testns.Sh(t, "ip netns exec bare cat /proc/sys/net/netfilter/nf_conntrack_count"); strings.TrimSpace(tracked) == "0" {
		t.Error("the bare virtual service's node tracks no connections")
	}
	through, bare := took[0], took[1]
	t.Logf("%d Services: connect p25 %v p50 %v p75 %v, through one bare virtual service p25 %v p50 %v p75 %v, ratio %.2f", n,
		quantile(through, 1), median(through), quantile(through, 3), quantile(bare, 1), median(bare), quantile(bare, 3), ratio(through, bare))
}

// connect opens a connection and answers how long that took. When the server has sent something, it ends with a reset, so
// that nothing of it is left to be done while the next is measured. A signal of Go's runtime begins it anew.
func connect(to unix.Sockaddr) (took time.Duration, err error) {
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		took, err = connectOnce(to)
	}
	return took, err
}

func connectOnce(to unix.Sockaddr) (time.Duration, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	for _, o := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, o, &unix.Timeval{Sec: 10}); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if err := unix.Connect(fd, to); err != nil {
		return 0, err
	}
	took := time.Since(began)
	if _, err := unix.Read(fd, make([]byte, 100)); err != nil {
		return 0, err
	}
	return took, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}
