package auth

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"mlaas.dev/mlaas"
)

// A job token opens the door for one incarnation of one replica and nothing
// else. It is the base64url of its JSON, a dot, and the base64url of the
// HMAC-SHA256 over that text. Who reads it learns a name, never a key.
type jobToken struct {
	Fence   mlaas.Fence `json:"fence"`
	Expires int64       `json:"expires"` // Unix seconds
}

// SignJob returns the token by which the supervisor of f proves who it is,
// until expires.
func SignJob(key []byte, f mlaas.Fence, expires time.Time) string {
	body, err := json.Marshal(jobToken{f, expires.Unix()})
	if err != nil {
		panic(err) // our own types always encode
	}
	text := base64.RawURLEncoding.EncodeToString(body)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign(key, text))
}

// VerifyJob returns whose token it is. It is mlaas.ErrUnauthorized if the
// token was not signed with key, was changed, or has expired.
func VerifyJob(key []byte, token string, now time.Time) (mlaas.Fence, error) {
	text, signature, ok := strings.Cut(token, ".")
	if !ok {
		return mlaas.Fence{}, refused("it is not a job token")
	}
	mac, err := base64.RawURLEncoding.Strict().DecodeString(signature)
	if err != nil || !hmac.Equal(mac, sign(key, text)) { // in constant time
		return mlaas.Fence{}, refused("it was not signed here, or it was changed")
	}
	var t jobToken
	body, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(body, &t)
	}
	if err != nil {
		return mlaas.Fence{}, refused("it is signed, but by another version of the platform")
	}
	if expires := time.Unix(t.Expires, 0); !now.Before(expires) {
		return mlaas.Fence{}, refused("it expired at " + expires.UTC().Format(time.RFC3339))
	}
	return t.Fence, nil
}

func refused(why string) error {
	return fmt.Errorf("job token refused: %s: %w", why, mlaas.ErrUnauthorized)
}

// sign has a key of its own, so that no other use of the platform's key can
// ever make a job token.
func sign(key []byte, text string) []byte {
	k, err := hkdf.Key(sha256.New, key, nil, "mlaas job tokens", 32)
	if err != nil {
		panic(err) // 32 bytes can always be had
	}
	mac := hmac.New(sha256.New, k)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// ServiceToken is what the processes of a platform show each other: it follows
// from the key that they share, and opens the internal API and nothing public.
func ServiceToken(key []byte) string { return hex.EncodeToString(sign(key, "mlaas service v1")) }
