package bootstrap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const bearer = "abcdef.0123456789abcdef"

func TestParseToken(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	got, err := ParseToken("R1" + hash + "::" + bearer + "\n")
	if err != nil || got.CAHash != hash || got.Bearer != bearer {
		t.Errorf("ParseToken = %+v, %v", got, err)
	}
	if got, err := ParseToken(bearer); err != nil || got.CAHash != "" {
		t.Errorf("a bare token: %+v, %v", got, err)
	}
	for _, bad := range []string{"", "R1", "R1ab::" + bearer, "R1" + hash + ":" + bearer, "R1" + hash + "::nope", "ABCDEF.0123456789abcdef"} {
		if _, err := ParseToken(bad); err == nil || !strings.HasPrefix(err.Error(), "token:") {
			t.Errorf("ParseToken(%q) = %v, want an error about the token", bad, err)
		}
	}
}

// server serves cluster-info with the given CA over TLS with its own certificate.
func server(t *testing.T, ca func(own []byte) []byte) (*httptest.Server, []byte) {
	var info []byte
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != clusterInfo {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(v1.ConfigMap{Data: map[string]string{"kubeconfig": string(info)}})
	}))
	t.Cleanup(s.Close)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	kc := clientcmdapi.NewConfig()
	kc.Clusters[""] = &clientcmdapi.Cluster{CertificateAuthorityData: ca(own)}
	var err error
	if info, err = clientcmd.Write(*kc); err != nil {
		t.Fatal(err)
	}
	return s, own
}

func hashOf(certPEM []byte) string {
	block, _ := pem.Decode(certPEM)
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

func credential(url string) *joiner {
	return &joiner{cfg: Config{Server: url, NodeName: "n", Logger: slog.New(slog.DiscardHandler)}}
}

func TestCAIsTakenOnlyWithItsHash(t *testing.T) {
	s, own := server(t, func(own []byte) []byte { return own })
	got, err := credential(s.URL).fetchCA(t.Context(), Token{CAHash: hashOf(own), Bearer: bearer})
	if err != nil || string(got) != string(own) {
		t.Fatalf("fetchCA = %v", err)
	}
	_, err = credential(s.URL).fetchCA(t.Context(), Token{CAHash: strings.Repeat("00", 32), Bearer: bearer})
	if err == nil || !strings.Contains(err.Error(), "wrong server") {
		t.Errorf("with another hash: %v", err)
	}
	_, err = credential(s.URL).fetchCA(t.Context(), Token{Bearer: bearer})
	if err == nil || !strings.Contains(err.Error(), "without a CA hash") {
		t.Errorf("without a hash: %v", err)
	}
}

func TestServerThatCannotWaitsUntilTold(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := credential("https://127.0.0.1:1").fetchCA(ctx, Token{CAHash: strings.Repeat("00", 32), Bearer: bearer})
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("fetchCA = %v, want the last failure in it", err)
	}
}
