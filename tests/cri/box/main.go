// Command box is what critest's images have and Debian's busybox lacks, by the name that it is called by: nginx and httpd
// stand-ins, pgrep, ipcs, pause, and nnp, which tells its effective user.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	program, err := os.Executable()
	if err == nil {
		switch name := filepath.Base(program); name {
		case "nginx", "httpd":
			err = serve(program, name)
		case "pgrep":
			err = pgrep(os.Args[1:])
		case "ipcs":
			err = ipcs(os.Args[1:])
		case "pause":
			err = pause()
		case "nnp":
			fmt.Printf("Effective uid: %d\n", os.Geteuid())
		default:
			err = fmt.Errorf("box does nothing under the name %q", name)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serve serves one page on $PORT, tells that on standard output under its own name, writes /var/run/<name>.pid and shows
// itself as "<name>: master process".
func serve(program, name string) error {
	if !strings.HasPrefix(os.Args[0], name+": ") {
		return syscall.Exec(program, []string{name + ": master process " + program}, os.Environ())
	}
	if err := os.WriteFile("/var/run/"+name+".pid", []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return err
	}
	address := ":" + os.Getenv("PORT")
	fmt.Println(name, "serves on", address)
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "<h1>Welcome to %s</h1>\n", name)
	}))
}

// pause holds a sandbox until it is told to stop, and buries the dead meanwhile.
func pause() error {
	stop, dead := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(dead, syscall.SIGCHLD)
	for {
		select {
		case <-stop:
			return nil
		case <-dead:
			for pid := 1; pid > 0; {
				pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			}
		}
	}
}

// pgrep prints the processes whose name contains the argument, and fails when there are none.
func pgrep(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: pgrep NAME")
	}
	found := false
	comms, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range comms {
		pid := filepath.Base(filepath.Dir(path))
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), args[0]) && pid != strconv.Itoa(os.Getpid()) {
			fmt.Println(pid)
			found = true
		}
	}
	if !found {
		os.Exit(1)
	}
	return nil
}

// ipcs -m prints the shared memory segments: key, id, owner, size.
func ipcs(args []string) error {
	if len(args) != 1 || args[0] != "-m" {
		return fmt.Errorf("usage: ipcs -m")
	}
	b, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 7 {
			fmt.Println(f[0], f[1], f[7], f[3])
		}
	}
	return nil
}
