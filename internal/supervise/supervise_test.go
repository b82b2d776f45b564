package supervise

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary plays the child and the supervisor too.
func TestMain(m *testing.M) {
	switch os.Getenv("SUPERVISE_ROLE") {
	case "child":
		ctx, cancel := WithLifeline(context.Background())
		defer cancel()
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
		defer stop()
		appendLine(os.Getenv("SUPERVISE_LOG"), "start "+strconv.Itoa(os.Getpid()))
		if s, ok := os.LookupEnv("NOTIFY_SOCKET"); ok {
			appendLine(os.Getenv("SUPERVISE_LOG"), "leak "+s)
		}
		NotifyReady()
		if code, err := strconv.Atoi(os.Getenv("SUPERVISE_EXIT")); err == nil {
			os.Exit(code)
		}
		<-ctx.Done()
		appendLine(os.Getenv("SUPERVISE_LOG"), "end "+strconv.Itoa(os.Getpid()))
		os.Exit(0)
	case "supervisor":
		Run(context.Background(), slog.New(slog.NewTextHandler(io.Discard, nil)), Child{Name: "c", Path: os.Args[0], Env: []string{"SUPERVISE_ROLE=child"}})
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func appendLine(path, line string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		os.Exit(9)
	}
	defer f.Close()
	io.WriteString(f, line+"\n")
}

// waitLines returns the log once it holds n lines with the prefix.
func waitLines(t *testing.T, path, prefix string, n int) []string {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		var got []string
		if f, err := os.Open(path); err == nil {
			for s := bufio.NewScanner(f); s.Scan(); {
				if strings.HasPrefix(s.Text(), prefix) {
					got = append(got, strings.TrimPrefix(s.Text(), prefix))
				}
			}
			f.Close()
		}
		if len(got) >= n {
			return got
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s never held %d lines that start with %q", path, n, prefix)
	return nil
}

func TestKilledChildIsStartedAgainAndStoppedAtTheEnd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/nonexistent")
	path := filepath.Join(t.TempDir(), "log")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ready := make(chan struct{}, 8)
	go func() {
		done <- Run(ctx, slog.New(slog.DiscardHandler), Child{
			Name: "c", Path: os.Args[0], Env: []string{"SUPERVISE_ROLE=child", "SUPERVISE_LOG=" + path},
			Ready: func() { ready <- struct{}{} },
		})
	}()
	first := waitLines(t, path, "start ", 1)
	pid, _ := strconv.Atoi(first[0])
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := waitLines(t, path, "start ", 2)
	if second[1] == first[0] {
		t.Fatalf("the second start has the first one's pid %s", first[0])
	}
	for range 2 {
		select {
		case <-ready:
		case <-time.After(30 * time.Second):
			t.Fatal("the supervisor did not hear that the child is ready")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatalf("Run = %v, want nil", err)
	}
	if got := waitLines(t, path, "end ", 1); got[0] != second[1] {
		t.Fatalf("child %s ended cleanly, want %s", got[0], second[1])
	}
	if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), "leak") {
		t.Errorf("the child saw the service manager's socket: %s, %v", text, err)
	}
}

func TestFatalExitCodeEndsEverything(t *testing.T) {
	dir := t.TempDir()
	err := Run(context.Background(), slog.New(slog.DiscardHandler),
		Child{Name: "good", Path: os.Args[0], Env: []string{"SUPERVISE_ROLE=child", "SUPERVISE_LOG=" + filepath.Join(dir, "good")}},
		Child{Name: "bad", Path: os.Args[0], Env: []string{"SUPERVISE_ROLE=child", "SUPERVISE_LOG=" + filepath.Join(dir, "bad"), "SUPERVISE_EXIT=78"},
			Fatal: func(code int) bool { return code == 78 }})
	if !errors.Is(err, ErrFatal) || !strings.Contains(err.Error(), "bad") {
		t.Fatalf("Run = %v, want ErrFatal of child bad", err)
	}
}

func TestChildEndsWhenSupervisorIsKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SUPERVISE_ROLE=supervisor", "SUPERVISE_LOG="+path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := waitLines(t, path, "start ", 1)[0]
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if got := waitLines(t, path, "end ", 1)[0]; got != child {
		t.Fatalf("child %s ended, want %s", got, child)
	}
}
