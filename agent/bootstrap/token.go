package bootstrap

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Token is a join token: R1<sha256 of the server CA's DER, hex>::<id>.<secret>, or a bare bootstrap token <id>.<secret>
// when the CA is known otherwise. Its String and the secret are never logged.
type Token struct {
	CAHash string // hex, empty for a bare one
	Bearer string // <id>.<secret>
}

var bearerForm = regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`)

// ParseToken reads a token.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	var t Token
	if rest, ok := strings.CutPrefix(s, "R1"); ok {
		hash, bearer, ok := strings.Cut(rest, "::")
		if b, err := hex.DecodeString(hash); !ok || err != nil || len(b) != sha256.Size {
			return t, errors.New("token: malformed; it reads R1<64 hex digits>::<id>.<secret> (reeve token create)")
		}
		t.CAHash, s = hash, bearer
	}
	if !bearerForm.MatchString(s) {
		return t, errors.New("token: malformed; it ends in <6 characters>.<16 characters> of a-z and 0-9 (reeve token create)")
	}
	t.Bearer = s
	return t, nil
}

// checkCA verifies that a PEM bundle's first certificate is the one that the token pins.
func (t Token) checkCA(caPEM []byte) error {
	if t.CAHash == "" {
		return nil
	}
	block, _ := pem.Decode(caPEM)
	if block == nil {
		return errors.New("the server's CA is not PEM")
	}
	sum := sha256.Sum256(block.Bytes)
	if hex.EncodeToString(sum[:]) != t.CAHash {
		return fmt.Errorf("the server's CA has hash %s, the token expects %s: wrong server, or a token of another cluster",
			hex.EncodeToString(sum[:]), t.CAHash)
	}
	return nil
}
