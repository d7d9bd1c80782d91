package auth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"mlaas.dev/mlaas"
)

func TestJob(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	other := bytes.Repeat([]byte{8}, 32)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f := mlaas.Fence{Tenant: "default", Run: "r1", Epoch: 3, Replica: "worker-0", Incarnation: 1}
	token := SignJob(key, f, now.Add(time.Hour))
	body, mac, _ := strings.Cut(token, ".")
	plain, _ := base64.RawURLEncoding.DecodeString(body)
	forged := base64.RawURLEncoding.EncodeToString(bytes.Replace(plain, []byte(`"epoch":3`), []byte(`"epoch":4`), 1))
	sealed, err := Seal(key, "secret/default/hf/1", []byte("hf"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		key   []byte
		token string
		now   time.Time
		want  string // empty: accepted
	}{
		{"as it was signed", key, token, now, ""},
		{"at its last second", key, token, now.Add(time.Hour - time.Second), ""},
		{"expired", key, token, now.Add(time.Hour), "job token refused: it expired at 2026-01-02T04:04:05Z: unauthorized"},
		{"of another platform", other, token, now, "job token refused: it was not signed here, or it was changed: unauthorized"},
		{"with another epoch", key, forged + "." + mac, now, "job token refused: it was not signed here, or it was changed: unauthorized"},
		{"without a signature", key, body + ".", now, "job token refused: it was not signed here, or it was changed: unauthorized"},
		{"signature cut", key, token[:len(token)-4], now, "job token refused: it was not signed here, or it was changed: unauthorized"},
		{"the owner's token", key, strings.Repeat("0f", 32), now, "job token refused: it is not a job token: unauthorized"},
		{"empty", key, "", now, "job token refused: it is not a job token: unauthorized"},
		{"signed, but no token", key, "e30x." + base64.RawURLEncoding.EncodeToString(sign(key, "e30x")), now, "job token refused: it is signed, but by another version of the platform: unauthorized"},
		{"something sealed", key, string(sealed), now, "job token refused: it is not a job token: unauthorized"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := VerifyJob(tt.key, tt.token, tt.now)
			if tt.want == "" {
				if err != nil || got != f {
					t.Errorf("VerifyJob = %v, %v; want %v", got, err, f)
				}
				return
			}
			if !errors.Is(err, mlaas.ErrUnauthorized) || got != (mlaas.Fence{}) {
				t.Fatalf("VerifyJob = %v, %v; want %v", got, err, mlaas.ErrUnauthorized)
			}
			if strings.Contains(tt.name, "sealed") {
				return // random bytes may hold a dot
			}
			if err.Error() != tt.want {
				t.Errorf("says %q, want %q", err, tt.want)
			}
		})
	}
}

func FuzzVerifyJob(f *testing.F) {
	key := bytes.Repeat([]byte{7}, 32)
	good := SignJob(key, mlaas.Fence{Run: "r"}, time.Unix(2e9, 0))
	f.Add(good)
	f.Add("a.b")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := VerifyJob(key, token, time.Unix(1e9, 0)); err == nil && token != good {
			t.Errorf("accepted %q", token)
		}
	})
}
