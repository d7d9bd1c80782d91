package auth

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"mlaas.dev/mlaas"
)

// Seal encrypts a secret so that only who holds the key can read it, and only
// as what it was sealed for: about is bound to it, such as "secret/default/hf".
// AES-256-GCM with a key of its own purpose (HKDF, RFC 5869) and a random
// nonce, which comes first in the result.
func Seal(key []byte, about string, plain []byte) ([]byte, error) {
	gcm, err := sealer(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, gcm.NonceSize())
	rand.Read(nonce) // never fails (crypto/rand)
	return gcm.Seal(nonce, nonce, plain, []byte(about)), nil
}

// Unseal is the reverse of Seal. It fails if the key is another one, if what
// was sealed was changed, or if it was sealed for something else.
func Unseal(key []byte, about string, sealed []byte) ([]byte, error) {
	gcm, err := sealer(key)
	if err != nil {
		return nil, err
	}
	if len(sealed) < gcm.NonceSize() {
		return nil, fmt.Errorf("%s: sealed text is too short: %w", about, mlaas.ErrInternal)
	}
	n := gcm.NonceSize()
	plain, err := gcm.Open(nil, sealed[:n], sealed[n:], []byte(about))
	if err != nil {
		return nil, fmt.Errorf("%s: sealed with another key, or damaged: %w", about, mlaas.ErrInternal)
	}
	return plain, nil
}

func sealer(key []byte) (cipher.AEAD, error) {
	if len(key) < 32 {
		return nil, fmt.Errorf("the key has %d bytes, want 32: %w", len(key), mlaas.ErrInternal)
	}
	k, err := hkdf.Key(sha256.New, key, nil, "mlaas secrets", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
