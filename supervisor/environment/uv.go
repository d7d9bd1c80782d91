package environment

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
)

// publicIndex is where Python packages come from unless the user's settings
// for pip or uv name another place. It is the default of both.
const publicIndex = "https://pypi.org/simple"

// uv returns the installer: $MLAAS_UV, one on PATH, or our own copy, which is
// fetched as a wheel from the configured index at first use. Python need have
// neither pip nor venv for that.
func (m *Manager) uv(ctx context.Context, py *interpreter, say func(string)) (string, error) {
	if own := os.Getenv("MLAAS_UV"); own != "" {
		if _, err := exec.LookPath(own); err != nil {
			return "", problem(mlaas.ErrInvalid, "MLAAS_UV is %s, want the path of uv: %v", own, err)
		}
		return own, nil
	}
	if found, err := exec.LookPath("uv"); err == nil && filepath.IsAbs(found) && filepath.Dir(found) != filepath.Join(pyenv(), "shims") {
		return found, nil
	}
	own := filepath.Join(m.Dir, "uv", "uv")
	if runs(own) {
		return own, nil
	}
	if err := m.folder("uv"); err != nil {
		return "", err
	}
	held, err := m.hold(ctx, filepath.Join(m.Dir, "uv", ".hold"), func() { say("another replica is fetching uv; waiting for it") })
	if err != nil {
		return "", err
	}
	defer held.Close()
	if runs(own) {
		return own, nil
	}
	say("fetching uv, the installer of Python packages, once for this machine")
	tmp, err := os.MkdirTemp(filepath.Join(m.Dir, "uv"), ".tmp-")
	if err != nil {
		return "", m.failure("fetch uv", err)
	}
	defer os.RemoveAll(tmp)
	wheel, err := m.wheelByPip(ctx, py, tmp)
	if err != nil {
		m.log().Debug("pip did not fetch uv; asking the index", "error", err)
		wheel, err = m.wheelByIndex(ctx, tmp)
	}
	if err != nil {
		if p := (*Problem)(nil); errors.As(err, &p) || ctx.Err() != nil || noRoom(err) {
			return "", m.failure("fetch uv", err)
		}
		return "", problem(mlaas.ErrUnavailable, "uv, the installer of Python packages, could not be fetched (%v): connect this machine to a Python package index, or put uv on PATH or in MLAAS_UV", err)
	}
	if err := unpackUV(wheel, filepath.Join(tmp, "uv")); err != nil {
		return "", m.failure("unpack uv", err)
	}
	if err := os.Rename(filepath.Join(tmp, "uv"), own); err != nil {
		return "", m.failure("fetch uv", err)
	}
	return own, nil
}

func runs(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && info.Size() > 0
}

// wheelByPip lets pip fetch the wheel where there is one: it knows every
// setting that its user has made.
func (m *Manager) wheelByPip(ctx context.Context, py *interpreter, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, py.Executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--disable-pip-version-check", "-d", dir, "uv")
	cmd.Dir = dir
	cmd.WaitDelay = time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s", err, lastLine(said.String()))
	}
	found, _ := filepath.Glob(filepath.Join(dir, "uv-*.whl"))
	if len(found) != 1 {
		return "", errors.New("pip fetched no wheel")
	}
	return found[0], nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// wheelByIndex fetches the newest wheel of uv for this machine from the index
// and checks its hash.
func (m *Manager) wheelByIndex(ctx context.Context, dir string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	base, err := url.Parse(strings.TrimSuffix(settings().index, "/") + "/uv/")
	if err != nil {
		return "", err
	}
	page, kind, err := get(ctx, base, "application/vnd.pypi.simple.v1+json, text/html;q=0.5", 64<<20)
	if err != nil {
		return "", err
	}
	files, err := simpleIndex(base, page, kind)
	if err != nil {
		return "", err
	}
	best, err := newest(files, wheelTags())
	if err != nil {
		return "", err
	}
	data, _, err := get(ctx, best.url, "*/*", 256<<20)
	if err != nil {
		return "", err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != best.sha256 {
		return "", fmt.Errorf("%s does not have the sha256 that the index states", best.name)
	}
	file := filepath.Join(dir, "uv.whl")
	return file, os.WriteFile(file, data, 0o600)
}

func get(ctx context.Context, from *url.URL, accept string, limit int64) ([]byte, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("%s answers %s", from.Redacted(), resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", from.Redacted(), limit)
	}
	return data, resp.Header.Get("Content-Type"), err
}

type wheel struct {
	name   string
	url    *url.URL
	sha256 string
}

var anchorRule = regexp.MustCompile(`(?i)<a\s([^>]*)>`)
var hrefRule = regexp.MustCompile(`(?i)href\s*=\s*["']([^"']+)["']`)

// simpleIndex reads the page of a project: JSON (PEP 691) or HTML (PEP 503).
func simpleIndex(base *url.URL, page []byte, kind string) (files []wheel, err error) {
	add := func(href, sum string) {
		if to, err := base.Parse(href); err == nil && sum != "" {
			to.Fragment = ""
			if to.User == nil && to.Host == base.Host {
				to.User = base.User
			}
			files = append(files, wheel{path.Base(to.Path), to, strings.ToLower(sum)})
		}
	}
	if strings.Contains(kind, "json") {
		var p struct {
			Files []struct {
				URL    string            `json:"url"`
				Hashes map[string]string `json:"hashes"`
				Yanked any               `json:"yanked"`
			} `json:"files"`
		}
		if err := json.Unmarshal(page, &p); err != nil {
			return nil, fmt.Errorf("the index answers no JSON: %w", err)
		}
		for _, f := range p.Files {
			if f.Yanked == nil || f.Yanked == false {
				add(f.URL, f.Hashes["sha256"])
			}
		}
		return files, nil
	}
	for _, a := range anchorRule.FindAllSubmatch(page, -1) {
		href := hrefRule.FindSubmatch(a[1])
		if href == nil || bytes.Contains(bytes.ToLower(a[1]), []byte("data-yanked")) {
			continue
		}
		link, sum, _ := strings.Cut(strings.ReplaceAll(string(href[1]), "&amp;", "&"), "#sha256=")
		add(link, sum)
	}
	return files, nil
}

// wheelTags are the ends of file names that run here, best first.
func wheelTags() []string {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64", "arm": "armv7l"}[runtime.GOARCH]
	if runtime.GOOS == "darwin" {
		if runtime.GOARCH == "arm64" {
			arch = "arm64"
		}
		return []string{"macosx_", arch}
	}
	if musl, _ := filepath.Glob("/lib/ld-musl-*"); len(musl) > 0 {
		return []string{"musllinux", arch}
	}
	return []string{"manylinux", arch}
}

// newest chooses the wheel of the highest released version with all tags.
func newest(files []wheel, tags []string) (best wheel, err error) {
	var at []int
	for _, f := range files {
		parts := strings.Split(f.name, "-")
		if len(parts) < 5 || !strings.HasSuffix(f.name, ".whl") || strings.Trim(parts[1], "0123456789.") != "" {
			continue
		}
		platform := parts[len(parts)-1]
		if slices.ContainsFunc(tags, func(t string) bool { return !strings.Contains(platform, t) }) {
			continue
		}
		if v := numbers(parts[1]); slices.Compare(v, at) > 0 {
			best, at = f, v
		}
	}
	if at == nil {
		return best, fmt.Errorf("the index has no uv for %s", system())
	}
	return best, nil
}

// unpackUV takes the program out of its wheel.
func unpackUV(wheel, to string) error {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, ".data/scripts/uv") {
			continue
		}
		from, err := f.Open()
		if err != nil {
			return err
		}
		defer from.Close()
		out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, from)
		return errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close())
	}
	return errors.New("there is no uv in its wheel")
}

// indexSettings is where packages come from.
type indexSettings struct {
	index string
	extra []string // for uv: NAME=value
}

// settings reads what the user has told pip, as uv would not: a machine that
// works with pip works with us.
func settings() indexSettings {
	pip := pipConfig()
	value := func(env, key string) string {
		if v := os.Getenv(env); v != "" {
			return v
		}
		return pip[key]
	}
	s := indexSettings{index: publicIndex}
	pass := func(uv, v string) {
		if v != "" && os.Getenv(uv) == "" {
			s.extra = append(s.extra, uv+"="+v)
		}
	}
	for _, v := range []string{os.Getenv("UV_DEFAULT_INDEX"), os.Getenv("UV_INDEX_URL"), value("PIP_INDEX_URL", "index-url")} {
		if v != "" {
			s.index = v
			break
		}
	}
	if os.Getenv("UV_INDEX_URL") == "" {
		pass("UV_DEFAULT_INDEX", value("PIP_INDEX_URL", "index-url"))
	}
	if os.Getenv("UV_EXTRA_INDEX_URL") == "" {
		pass("UV_INDEX", value("PIP_EXTRA_INDEX_URL", "extra-index-url"))
	}
	var links []string
	for _, l := range strings.Fields(value("PIP_FIND_LINKS", "find-links")) {
		// pip passes over a folder that is not there; uv would fail.
		if _, err := os.Stat(l); err == nil || strings.Contains(l, "://") {
			links = append(links, l)
		}
	}
	pass("UV_FIND_LINKS", strings.Join(links, ","))
	pass("SSL_CERT_FILE", value("PIP_CERT", "cert"))
	if proxy := value("PIP_PROXY", "proxy"); proxy != "" {
		pass("HTTPS_PROXY", proxy)
		pass("HTTP_PROXY", proxy)
	}
	return s
}

// pipConfig reads pip's configuration files, the user's after the system's.
func pipConfig() map[string]string {
	out := map[string]string{}
	home, _ := os.UserHomeDir()
	config := os.Getenv("XDG_CONFIG_HOME")
	if config == "" {
		config = filepath.Join(home, ".config")
	}
	files := []string{"/etc/pip.conf", "/etc/xdg/pip/pip.conf", filepath.Join(home, ".pip", "pip.conf"), filepath.Join(config, "pip", "pip.conf")}
	if own := os.Getenv("PIP_CONFIG_FILE"); own != "" {
		files = append(files, own)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		section, key := "", ""
		lines := bufio.NewScanner(bytes.NewReader(data))
		for lines.Scan() {
			line := lines.Text()
			text := strings.TrimSpace(line)
			switch {
			case text == "" || strings.HasPrefix(text, "#") || strings.HasPrefix(text, ";"):
			case strings.HasPrefix(text, "["):
				section, key = strings.Trim(text, "[]"), ""
			case section != "global" && section != "install":
			case key != "" && (line[0] == ' ' || line[0] == '\t'): // a value goes on
				out[key] = strings.TrimSpace(out[key] + " " + text)
			default:
				if k, v, ok := strings.Cut(text, "="); ok {
					key = strings.ReplaceAll(strings.TrimSpace(k), "_", "-")
					out[key] = strings.TrimSpace(v)
				}
			}
		}
	}
	return out
}

// run starts uv with a known umask, our cache and the user's own settings, and
// ends it with everything that it started when ctx ends.
func (m *Manager) run(ctx context.Context, uv string, args []string, in io.Reader, out io.Writer, said *listener) error {
	// Sweep empties the cache only while nobody uses it.
	using, err := m.holdAs(ctx, filepath.Join(m.Dir, "cache.hold"), syscall.LOCK_SH, func() {})
	if err != nil {
		return err
	}
	defer using.Close()
	// What it makes must be readable by the users that replicas run as.
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `umask 022; exec "$0" "$@"`, uv}, args...)...)
	cmd.Dir = m.Dir
	cmd.Env = m.environ()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (m *Manager) environ() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		switch {
		case strings.HasPrefix(name, "MLAAS_"), name == "VIRTUAL_ENV", name == "CONDA_PREFIX", strings.HasPrefix(name, "PYTHON"):
			// Of this process or of its user's shell, and no business of uv.
		default:
			env = append(env, v)
		}
	}
	return append(append(env, settings().extra...),
		"UV_CACHE_DIR="+filepath.Join(m.Dir, "cache"), "UV_PYTHON_DOWNLOADS=never", "UV_NO_PROGRESS=1", "NO_COLOR=1", "UV_LINK_MODE=hardlink")
}

func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// saysNoRoom reports whether a program that failed said that a disk is full.
func saysNoRoom(out []byte) bool {
	return bytes.Contains(bytes.ToLower(out), []byte(syscall.ENOSPC.Error())) || bytes.Contains(bytes.ToLower(out), []byte(syscall.EDQUOT.Error()))
}
