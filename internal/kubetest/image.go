//go:build linux

package kubetest

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// An Image is a container image of one layer, made of this machine's files.
type Image struct {
	// Ref is its full name with a tag, such as "kubetest.local/mlaas:1". It is
	// in no registry: pods that use it want imagePullPolicy Never or IfNotPresent.
	Ref string

	// Files are the paths in the image, and what of this machine is there. A
	// folder is taken with all that is in it. Everything belongs to root.
	Files map[string]string

	// Without are names of files and folders that are left out wherever they are.
	Without []string

	Entrypoint []string
	Env        []string // "NAME=value"; PATH is there if it is not set
	User       string   // such as "65534"; empty: root
}

// Write writes the image to an archive in OCI's format, for [Cluster.Import].
// The same files give the same digest.
func (i Image) Write(file string) (err error) {
	if host, _, ok := strings.Cut(i.Ref, "/"); !ok || !strings.Contains(host, ".") || !strings.Contains(path.Base(i.Ref), ":") {
		return fmt.Errorf("the name of the image is %q, want a host with a dot, a path and a tag, such as kubetest.local/mlaas:1", i.Ref)
	}
	layer, err := os.CreateTemp(filepath.Dir(file), ".layer-*")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	digest, size, err := i.writeLayer(layer)
	if err != nil {
		return fmt.Errorf("image %s: %w", i.Ref, err)
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if e := out.Close(); err == nil {
			err = e
		}
	}()
	archive := tar.NewWriter(out)
	put := func(name string, size int64, content io.Reader) error {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(archive, content)
		return err
	}
	type object = map[string]any
	// blob puts an object under its digest, and returns what says so.
	blob := func(media string, content any) (object, error) {
		text, err := json.Marshal(content)
		if err != nil {
			return nil, err
		}
		digest := hex.EncodeToString(sum(text))
		return object{"mediaType": media, "digest": "sha256:" + digest, "size": len(text)},
			put("blobs/sha256/"+digest, int64(len(text)), strings.NewReader(string(text)))
	}
	env := i.Env
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin"}, env...)
	}
	config, err := blob("application/vnd.oci.image.config.v1+json", object{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Entrypoint": i.Entrypoint, "Env": env, "User": i.User},
		"rootfs": object{"type": "layers", "diff_ids": []string{"sha256:" + digest}},
	})
	if err != nil {
		return err
	}
	const layerMedia = "application/vnd.oci.image.layer.v1.tar"
	if err := put("blobs/sha256/"+digest, size, layer); err != nil {
		return err
	}
	const manifestMedia = "application/vnd.oci.image.manifest.v1+json"
	manifest, err := blob(manifestMedia, object{
		"schemaVersion": 2, "mediaType": manifestMedia, "config": config,
		"layers": []object{{"mediaType": layerMedia, "digest": "sha256:" + digest, "size": size}},
	})
	if err != nil {
		return err
	}
	manifest["annotations"] = object{"io.containerd.image.name": i.Ref}
	index, err := json.Marshal(object{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []object{manifest}})
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"index.json": string(index), "oci-layout": `{"imageLayoutVersion":"1.0.0"}`} {
		if err := put(name, int64(len(text)), strings.NewReader(text)); err != nil {
			return err
		}
	}
	return archive.Close()
}

func sum(text []byte) []byte { s := sha256.Sum256(text); return s[:] }

// writeLayer writes the files, and returns the digest and the size of what was written.
func (i Image) writeLayer(to io.Writer) (digest string, size int64, err error) {
	hash, count := sha256.New(), new(counter)
	layer := tar.NewWriter(io.MultiWriter(to, hash, count))
	w := &layerWriter{tar: layer, without: i.Without, made: map[string]bool{}}
	if err := w.folder("tmp", 0o1777); err != nil {
		return "", 0, err
	}
	for _, at := range slices.Sorted(maps.Keys(i.Files)) {
		if err := w.add(at, i.Files[at]); err != nil {
			return "", 0, err
		}
	}
	if err := layer.Close(); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(hash.Sum(nil)), int64(*count), nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

type layerWriter struct {
	tar     *tar.Writer
	without []string
	made    map[string]bool // folders
}

// folder makes a folder and those above it, once.
func (w *layerWriter) folder(name string, mode int64) error {
	if name == "." || w.made[name] {
		return nil
	}
	if err := w.folder(path.Dir(name), 0o755); err != nil {
		return err
	}
	w.made[name] = true
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

// add puts what is at from on this machine into the image at the path at.
func (w *layerWriter) add(at, from string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p != from && slices.Contains(w.without, d.Name()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		rest, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		name := path.Join(strings.TrimPrefix(at, "/"), filepath.ToSlash(rest))
		info, err := d.Info()
		if err == nil && p == from && info.Mode().Type() == fs.ModeSymlink {
			info, err = os.Stat(p) // what was named is meant, not the link
		}
		if err != nil {
			return err
		}
		switch {
		case info.IsDir() && p == from && !d.IsDir():
			return fmt.Errorf("%s is a link to a folder, want the folder itself", from)
		case info.IsDir():
			return w.folder(name, int64(info.Mode().Perm()))
		case info.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			if err := w.folder(path.Dir(name), 0o755); err != nil {
				return err
			}
			return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777})
		case !info.Mode().IsRegular():
			return nil // sockets and devices are no part of an image
		}
		if err := w.folder(path.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: int64(info.Mode().Perm()), Size: info.Size()}); err != nil {
			return err
		}
		_, err = io.Copy(w.tar, f)
		return err
	})
}
