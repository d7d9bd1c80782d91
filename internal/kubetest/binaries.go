//go:build linux

package kubetest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// BinVariable names the folder of the programs, where it is not the one that
// `make kube-bin` fills.
const BinVariable = "MLAAS_KUBE_BIN"

// folder is where the programs are. kubetest/build.sh names it the same way:
// after what it is built from.
func folder() (string, error) {
	if dir := os.Getenv(BinVariable); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "kube-apiserver")); err != nil {
			return "", fmt.Errorf("%s is %s, want a folder that `make kube-bin` has filled: %w", BinVariable, dir, err)
		}
		return filepath.Abs(dir)
	}
	source, err := source()
	if err != nil {
		return "", err
	}
	var files []string
	for _, pattern := range []string{"go.*", "build.sh", "cmd/*/*.go"} {
		found, err := filepath.Glob(filepath.Join(source, pattern))
		if err != nil {
			return "", err
		}
		slices.Sort(found)
		files = append(files, found...)
	}
	hash := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		hash.Write(content)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "mlaas", "kube", hex.EncodeToString(hash.Sum(nil))[:16])
	if _, err := os.Stat(dir); err != nil {
		return "", fmt.Errorf("the programs of Kubernetes are not built (%w): `make kube-bin` builds them, once for this machine, in some ten minutes", err)
	}
	return dir, nil
}

// source is the folder kubetest/ of the repository that the program was started in.
func source() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		source := filepath.Join(dir, "kubetest")
		if _, err := os.Stat(filepath.Join(source, "build.sh")); err == nil {
			return source, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("which programs of Kubernetes to run is said by the folder kubetest/ of the repository, and this was not started in one: set " + BinVariable)
		}
	}
}
