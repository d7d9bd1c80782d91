package auth

import (
	"bytes"
	"testing"
)

func TestSeal(t *testing.T) {
	key, other := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	sealed, err := Seal(key, "secret/default/hf", []byte("hf_abc"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("hf_abc")) {
		t.Error("the secret can be read in what was sealed")
	}
	again, _ := Seal(key, "secret/default/hf", []byte("hf_abc"))
	if bytes.Equal(sealed, again) {
		t.Error("the same secret sealed twice looks the same")
	}
	if got, err := Unseal(key, "secret/default/hf", sealed); err != nil || string(got) != "hf_abc" {
		t.Errorf("Unseal = %q, %v", got, err)
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another key":   func() ([]byte, error) { return Unseal(other, "secret/default/hf", sealed) },
		"another name":  func() ([]byte, error) { return Unseal(key, "secret/default/x", sealed) },
		"a flipped bit": func() ([]byte, error) { return Unseal(key, "secret/default/hf", changed) },
		"too short":     func() ([]byte, error) { return Unseal(key, "secret/default/hf", sealed[:5]) },
		"a short key":   func() ([]byte, error) { return Unseal(key[:8], "secret/default/hf", sealed) },
	} {
		if got, err := open(); err == nil {
			t.Errorf("%s: opened as %q", name, got)
		}
	}
}
