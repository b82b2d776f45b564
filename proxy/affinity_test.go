package proxy

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestSessionAffinityKeepsAClientOnOnePod(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 4, flavor)
		w.service("web", clusterIP, func(s *corev1.ServiceSpec) { s.SessionAffinity = corev1.ServiceAffinityClientIP })
		w.endpoints("web", 0, 1, 2)
		w.run(nil)
		w.settled("default/web:dns cluster IP")
		first, err := w.pods[3].Answer("tcp", clusterIP+":80")
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			w.pods[3].MustSay(t, "tcp", clusterIP+":80", first)
		}
		w.service("web", clusterIP, nil) // affinity off
		w.unsettled(w.on("--rcheck", "goto remember", " -p 10800"))
		said := map[string]bool{}
		for range 40 {
			s, _ := w.pods[3].Answer("tcp", clusterIP+":80")
			said[s] = true
		}
		if len(said) != 3 {
			t.Errorf("after affinity was switched off the client reached %v", said)
		}
	})
}

// A client is remembered to its pod and moves only when that goes.
func TestSessionAffinityMovesOnlyTheClientsOfAPodThatGoes(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 4, flavor)
		w.service("web", clusterIP, func(s *corev1.ServiceSpec) {
			nodePorts(s)
			s.SessionAffinity = corev1.ServiceAffinityClientIP
		})
		w.endpoints("web", 0, 1, 2)
		w.run(nil)
		w.settled("default/web:dns node port")
		targets := map[string]string{"tcp": "192.0.2.1:30080", "udp": clusterIP + ":53"}
		for network, target := range targets {
			said, err := w.pods[3].Answer(network, target)
			if err != nil {
				t.Fatal(err)
			}
			var mine int
			if _, err := fmt.Sscanf(said, "p%d", &mine); err != nil {
				t.Fatalf("%q: %v", said, err)
			}
			another := (mine + 1) % 3
			left := []int{mine, 3 - mine - another}
			w.endpoints("web", left...)
			w.unsettled(w.ips[another].String() + ":8080")
			for range 6 {
				w.pods[3].MustSay(t, network, target, said)
			}
			w.endpoints("web", another, left[1])
			w.unsettled(w.ips[mine].String() + ":8080")
			next, err := w.pods[3].Answer(network, target)
			if err != nil || next == said {
				t.Fatalf("after its pod went the client got %q, %v", next, err)
			}
			for range 6 {
				w.pods[3].MustSay(t, network, target, next)
			}
			w.endpoints("web", 0, 1, 2)
			w.settled(w.ips[mine].String() + ":8080")
			for range 6 {
				w.pods[3].MustSay(t, network, target, next)
			}
		}
	})
}
