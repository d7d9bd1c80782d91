package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/blob"
)

// Commit fetches a folder of a commit into dir, which is there and empty. The
// commit is that of was, where it was fetched before. work is a folder that
// does not exist yet, for what git needs meanwhile; it is removed.
//
// It is done by the git program, which gets the files of one commit and no
// history. Nothing of the repository is ever run and nothing of it is obeyed:
// files are read out of git's store as they are, so no hook, filter, attribute
// or submodule of theirs has a say.
func (f *Fetcher) Commit(ctx context.Context, source, dir, work string, was *mlaas.Fetched) (got mlaas.Fetched, err error) {
	r, err := mlaas.ParseRepository(source)
	if err != nil {
		return got, err
	}
	binary, err := exec.LookPath("git")
	if err != nil {
		return got, fmt.Errorf("this machine has no git to fetch %s: install it here, or send the files with `mlaas data put`: %w", r.URL, mlaas.ErrUnavailable)
	}
	u, err := url.Parse(r.URL)
	if err != nil {
		return got, mlaas.Invalid("source", "the address of a repository", source)
	}
	g := &repository{f: f, Repository: r, binary: binary, dir: work}
	defer os.RemoveAll(work)
	if err := g.reach(u); err != nil {
		return got, err
	}
	defer g.tunnel.Close()
	got.Source = source
	ref := r.Ref
	if was != nil && was.Commit != "" {
		ref = was.Commit
	}
	if ref == "" {
		ref = "HEAD"
	}
	f.Say("fetching " + ref + " of " + r.URL)
	if got.Commit, err = g.fetch(ctx, ref); err != nil {
		return got, err
	}
	files, err := g.write(ctx, got.Commit, dir)
	if err != nil {
		return got, err
	}
	return got, Tree(&got, files)
}

// A repository is what git has of one.
type repository struct {
	f *Fetcher
	mlaas.Repository
	binary, dir string
	env         []string
	tunnel      *tunnel
}

// reach decides how git reaches the server and what it tells it. Nothing of
// this machine's configuration has a say.
func (g *repository) reach(u *url.URL) error {
	t, err := g.f.Guard(u)
	if err != nil {
		return err
	}
	config := [][2]string{
		{"init.defaultBranch", "none"},
		{"core.hooksPath", "/dev/null"},
		{"fetch.recurseSubmodules", "false"},
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil {
		return err
	}
	if proxy == nil {
		// The check is made on the address that is dialled, so we dial.
		if g.tunnel, err = openTunnel(t.DialContext, int64(g.f.Most)); err != nil {
			return err
		}
		config = append(config, [2]string{"http.proxy", g.tunnel.URL()})
	} else {
		config = append(config, [2]string{"http.proxy", proxy.String()}, [2]string{"http.followRedirects", "false"})
	}
	g.env = []string{
		"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=" + g.dir, "GIT_DIR=" + g.dir,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_ATTR_NOSYSTEM=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=", "SSH_ASKPASS=",
		"GIT_ALLOW_PROTOCOL=https",
		"GIT_HTTP_LOW_SPEED_LIMIT=1", "GIT_HTTP_LOW_SPEED_TIME=120", // nothing came for two minutes
	}
	for _, name := range []string{"GIT_SSL_CAINFO", "SSL_CERT_FILE"} {
		if file := os.Getenv(name); file != "" {
			g.env = append(g.env, "GIT_SSL_CAINFO="+file)
			break
		}
	}
	password := g.f.Getenv("GIT_PASSWORD")
	if password == "" {
		password = g.f.Getenv("GIT_TOKEN")
	}
	if password != "" {
		name := g.f.Getenv("GIT_USERNAME")
		if name == "" {
			name = "git" // beside a token, any name will do
		}
		// Told to this server alone, when it asks, and never in a command line.
		config = append(config, [2]string{"credential.https://" + u.Host + ".helper",
			`!f() { test "$1" = get && printf 'username=%s\npassword=%s\n' "$MLAAS_GIT_USERNAME" "$MLAAS_GIT_PASSWORD"; }; f`})
		g.env = append(g.env, "MLAAS_GIT_USERNAME="+name, "MLAAS_GIT_PASSWORD="+password)
	}
	g.env = append(g.env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)))
	for i, c := range config {
		g.env = append(g.env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, c[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, c[1]))
	}
	return nil
}

func (g *repository) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, g.binary, args...)
	c.Env = g.env
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // git has helpers, and they end with it
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 5 * time.Second
	return c
}

// git runs a command, and returns what it wrote.
func (g *repository) git(ctx context.Context, args ...string) ([]byte, error) {
	c := g.command(ctx, args...)
	var out, said bytes.Buffer
	c.Stdout, c.Stderr = &out, &said
	err := c.Run()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, g.why(said.String())
	}
	return out.Bytes(), nil
}

// why makes a sentence of what git says.
func (g *repository) why(said string) error {
	if g.tunnel != nil {
		if err := g.tunnel.refusal(); err != nil {
			return err
		}
	}
	var lines []string
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	text := strings.Join(lines[:min(len(lines), 5)], "; ")
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(said, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("could not read Username", "Authentication failed", "error: 401", "error: 403", "terminal prompts disabled"):
		return fmt.Errorf("%s does not let us in: put $GIT_USERNAME and $GIT_PASSWORD, or $GIT_TOKEN, among the secrets of the environment: %w", g.URL, mlaas.ErrForbidden)
	case has("couldn't find remote ref", "not our ref", "no such remote ref", "unadvertised object"):
		return mlaas.Invalid("source", "a branch, a tag or a whole commit id that "+g.URL+" has, after the @", g.Ref)
	case has("not found", "error: 404"):
		return fmt.Errorf("there is no repository at %s, or it does not show itself to strangers: %w", g.URL, mlaas.ErrNotFound)
	}
	return fmt.Errorf("%s cannot be fetched: git says: %s: %w", g.URL, text, mlaas.ErrUnavailable)
}

// fetch gets one commit without its history, and returns its id.
func (g *repository) fetch(ctx context.Context, ref string) (string, error) {
	if _, err := g.git(ctx, "init", "--quiet", "--bare", "--template=", g.dir); err != nil {
		return "", err
	}
	if _, err := g.git(ctx, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-commit-graph", "--end-of-options", g.URL, ref); err != nil {
		return "", err
	}
	out, err := g.git(ctx, "rev-parse", "--verify", "--end-of-options", "FETCH_HEAD^{commit}")
	return strings.TrimSpace(string(out)), err
}

// A listed file is one that the commit has.
type listed struct {
	mode, id, name string
	size           int64
}

// list names the files of the folder.
func (g *repository) list(ctx context.Context, commit string) ([]listed, error) {
	at := commit + "^{tree}"
	if g.Folder != "" {
		at = commit + ":" + g.Folder
	}
	out, err := g.git(ctx, "ls-tree", "-r", "-z", "-l", "--full-tree", "--end-of-options", at)
	if err != nil {
		if ctx.Err() == nil && g.Folder != "" {
			return nil, mlaas.Invalid("source", "a folder that "+g.URL+" has at "+commit+", after the #", g.Folder)
		}
		return nil, err
	}
	var all []listed
	var size mlaas.Bytes
	var modules []string
	for entry := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if entry == "" {
			continue
		}
		about, name, _ := strings.Cut(entry, "\t")
		words := strings.Fields(about) // mode, kind, id, size
		if len(words) != 4 {
			return nil, fmt.Errorf("git lists %q", entry)
		}
		if words[1] != "blob" {
			modules = append(modules, name)
			continue
		}
		l := listed{mode: words[0], id: words[2], name: name}
		if l.size, err = strconv.ParseInt(words[3], 10, 64); err != nil {
			return nil, fmt.Errorf("git lists %q: %w", entry, err)
		}
		size += mlaas.Bytes(l.size)
		all = append(all, l)
	}
	if len(modules) > 0 {
		g.f.Say("submodules are left out: " + strings.Join(modules[:min(len(modules), 5)], ", "))
	}
	return all, g.f.tooMuch(len(all), size)
}

// write puts the files of a commit into dir.
func (g *repository) write(ctx context.Context, commit, dir string) ([]mlaas.File, error) {
	all, err := g.list(ctx, commit)
	if err != nil {
		return nil, err
	}
	in, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	c := g.command(ctx, "cat-file", "--batch")
	ask, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	defer func() {
		ask.Close()
		_ = c.Cancel() // it has nothing left to do
		c.Wait()
	}()
	answers := bufio.NewReaderSize(out, 128<<10)
	files := []mlaas.File{}
	pointers := 0
	for _, l := range all {
		if _, err := io.WriteString(ask, l.id+"\n"); err != nil {
			return nil, err
		}
		head, err := answers.ReadString('\n')
		if err != nil || head != fmt.Sprintf("%s blob %d\n", l.id, l.size) {
			return nil, errors.Join(context.Cause(ctx), fmt.Errorf("git gives %q for %s: %w", head, l.name, errors.Join(err, mlaas.ErrUnavailable)))
		}
		file, pointer, err := g.one(in, l, answers)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		if file != nil {
			files = append(files, *file)
		}
		if pointer {
			pointers++
		}
		if _, err := answers.Discard(1); err != nil { // the newline after each
			return nil, err
		}
	}
	if pointers > 0 {
		g.f.Say(fmt.Sprintf("%d files are pointers of Git LFS: the content is elsewhere and is not fetched", pointers))
	}
	return files, nil
}

// How a pointer of Git LFS begins, and how long it is at most.
const (
	lfs     = "version https://git-lfs.github.com/spec/v1\n"
	lfsSize = 1024
)

// one writes a file, or a link that stays inside, which is no file of a tree.
func (g *repository) one(in *folder, l listed, r *bufio.Reader) (*mlaas.File, bool, error) {
	body := io.LimitReader(r, l.size)
	if l.mode == "120000" {
		to, err := io.ReadAll(body)
		if err != nil {
			return nil, false, err
		}
		if !inside(l.name, string(to)) {
			return nil, false, mlaas.Invalid("source", "links to places inside the folder", string(to))
		}
		if err := in.in(l.name); err != nil {
			return nil, false, err
		}
		return nil, false, clash(l.name, in.Symlink(string(to), l.name))
	}
	head, err := r.Peek(int(min(l.size, int64(len(lfs)))))
	if err != nil {
		return nil, false, err
	}
	pointer := l.size < lfsSize && string(head) == lfs
	out, err := in.file(l.name)
	if err != nil {
		return nil, false, err
	}
	defer out.Close()
	w := newWritten(out)
	if n, err := io.Copy(w, body); err != nil || n != l.size {
		return nil, false, fmt.Errorf("%d bytes of %d: %w", n, l.size, errors.Join(err, mlaas.ErrUnavailable))
	}
	file, err := w.done(l.name, l.mode == "100755")
	return &file, pointer, err
}

// inside reports whether a link called name leads to a place in its folder.
func inside(name, to string) bool {
	if to == "" || path.IsAbs(to) || strings.ContainsRune(to, 0) {
		return false
	}
	at := path.Join(path.Dir(name), to)
	return at == "." || filepath.IsLocal(at) && blob.CheckPath(at) == nil
}
