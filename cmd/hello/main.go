// Hello is the demo image's server: it answers every request on :8080 (PORT changes that) with the name of its pod and
// node, which the pod spec passes as POD_NAME, NODE_NAME and POD_IP, and /healthz with ok. It ends on SIGTERM after the
// requests under way.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// requestTimeout bounds one request: reading its head and writing the answer.
const requestTimeout = 10 * time.Second

func main() {
	port := env("PORT", "8080")
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		fmt.Fprintf(os.Stderr, "hello: cannot listen on port %s: %v\n", port, err)
		os.Exit(1)
	}
	fmt.Printf("hello: listening on %s\n", l.Addr())
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		l.Close()
	}()
	var open sync.WaitGroup
	for {
		c, err := l.Accept()
		if err != nil {
			break
		}
		open.Add(1)
		go func() {
			defer open.Done()
			defer c.Close()
			serve(c)
		}()
	}
	open.Wait()
}

// serve answers one HTTP/1.x request and closes. net/http would treble the image, and keep-alive would pin a client to
// one pod, which a demo of load balancing should not.
func serve(c net.Conn) {
	c.SetDeadline(time.Now().Add(requestTimeout))
	r := bufio.NewReaderSize(c, 4096)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	for {
		h, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if strings.TrimSpace(h) == "" {
			break
		}
	}
	f := strings.Fields(line)
	if len(f) < 2 {
		respond(c, "400 Bad Request", "bad request\n")
		return
	}
	if path, _, _ := strings.Cut(f[1], "?"); path == "/healthz" {
		respond(c, "200 OK", "ok\n")
		return
	}
	host, _ := os.Hostname()
	respond(c, "200 OK", fmt.Sprintf("hello from pod %s on node %s\npod IP %s, your address %s\n",
		env("POD_NAME", host), env("NODE_NAME", "unknown"), env("POD_IP", "unknown"), c.RemoteAddr()))
}

func respond(c net.Conn, status, body string) {
	fmt.Fprintf(c, "HTTP/1.1 %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, len(body), body)
}

func env(key, fallback string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return fallback
}
