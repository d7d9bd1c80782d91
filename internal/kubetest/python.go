//go:build linux

package kubetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// PythonRef is the name of the image that [Python] makes.
const PythonRef = "kubetest.local/python:1"

// Python is an image with this machine's python3, its standard library and the
// shared libraries that they and most wheels need, and nothing else: no shell,
// no package. Environments made by that python3 work in it, at their own paths.
func Python() (Image, error) {
	const ask = `import json, os, sys, sysconfig
print(json.dumps({"executable": os.path.realpath(sys.executable), "library": sysconfig.get_path("stdlib")}))`
	python, err := exec.LookPath("python3")
	if err != nil {
		return Image{}, err
	}
	out, err := exec.Command(python, "-I", "-c", ask).Output()
	if err != nil {
		return Image{}, fmt.Errorf("ask %s where its library is: %w", python, err)
	}
	var host struct{ Executable, Library string }
	if err := json.Unmarshal(out, &host); err != nil {
		return Image{}, err
	}
	image := Image{
		Ref:        PythonRef,
		Files:      map[string]string{host.Executable: host.Executable, "/usr/bin/python3": host.Executable, host.Library: host.Library},
		Without:    []string{"__pycache__", "test", "tests", "site-packages", "dist-packages", "idlelib", "ensurepip", "tkinter", "lib2to3"},
		Entrypoint: []string{"/usr/bin/python3"},
	}
	objects := []string{host.Executable}
	err = filepath.WalkDir(host.Library, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasSuffix(p, ".so") {
			objects = append(objects, p)
		}
		return err
	})
	if err != nil {
		return Image{}, err
	}
	libraries, err := sharedLibraries(objects)
	if err != nil {
		return Image{}, err
	}
	for _, l := range libraries {
		image.Files[l] = l
	}
	return image, nil
}

var loaded = regexp.MustCompile(`(?m)^\s+(?:\S+ => )?(/\S+) \(0x`)

// sharedLibraries are what the loader would load for the objects, and what
// wheels take for granted.
func sharedLibraries(objects []string) ([]string, error) {
	out, err := exec.Command("ldd", objects...).Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) { // it fails for an object that needs none
		return nil, err
	}
	var files []string
	folder := ""
	for _, match := range loaded.FindAllStringSubmatch(string(out), -1) {
		files = append(files, match[1])
		if strings.HasPrefix(filepath.Base(match[1]), "libc.so") {
			folder = filepath.Dir(match[1])
		}
	}
	if folder == "" {
		return nil, fmt.Errorf("ldd names no libc for %s", objects[0])
	}
	for _, name := range []string{"libstdc++.so.6", "libgcc_s.so.1", "librt.so.1", "libdl.so.2", "libpthread.so.0", "libutil.so.1", "libresolv.so.2", "libnss_files.so.2", "libnss_dns.so.2"} {
		if file := filepath.Join(folder, name); exists(file) {
			files = append(files, file)
		}
	}
	return files, nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
