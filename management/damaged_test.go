package management

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// Bytes that a disk has changed are never served as if they were right: small
// ones are refused, large ones are cut off.
func TestDamagedBytes(t *testing.T) {
	for _, size := range []int{1, 1000, wholeBlob, wholeBlob + 1, 3 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			a := start(t)
			data := bytes.Repeat([]byte{1}, size)
			sum := sha256.Sum256(data)
			digest := hex.EncodeToString(sum[:])
			get := func() (status int, body []byte, err error) {
				req, err := http.NewRequestWithContext(t.Context(), "GET", a.url+"/api/blob/sha256:"+digest, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+token)
				res, err := a.http.Do(req)
				if err != nil {
					return 0, nil, err
				}
				defer res.Body.Close()
				body, err = io.ReadAll(res.Body)
				return res.StatusCode, body, err
			}
			if r := a.do("PUT", "/api/blob/sha256:"+digest, data); r.Status != http.StatusCreated {
				t.Fatalf("PUT: %d %s", r.Status, r.Body)
			}
			if status, body, err := get(); err != nil || status != http.StatusOK || !bytes.Equal(body, data) {
				t.Fatalf("undamaged: %d, %d bytes, %v", status, len(body), err)
			}
			data[size/2] ^= 4
			if err := os.WriteFile(filepath.Join(filepath.Dir(a.store().Dir), "blob", digest[:2], digest), data, 0o600); err != nil {
				t.Fatal(err)
			}
			status, body, err := get()
			if err == nil && status < 500 {
				t.Errorf("damaged: %d, %d bytes, whole", status, len(body))
			}
			if size <= wholeBlob && status != http.StatusInternalServerError {
				t.Errorf("damaged and small: %d, %v, want 500", status, err)
			}
		})
	}
}
