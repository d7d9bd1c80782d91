package layout

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"mlaas.dev/mlaas/internal/link"
)

// several is the services apart: one of each, or two with a balancer in front.
func (p *Platform) several(ctx context.Context) error {
	each := 1
	if p.Kind == TwoOfEach {
		each = 2
	}
	storeURL, err := p.redis(ctx)
	if err != nil {
		return err
	}
	blobURL, err := p.s3(ctx)
	if err != nil {
		return err
	}
	if p.Before != nil {
		if err := p.Before(storeURL, blobURL); err != nil {
			return err
		}
	}
	p.balancer = &Balancer{}
	address, err := p.balancer.Start() // nobody calls before all are there
	if err != nil {
		return err
	}
	p.URL = "http://" + address
	for n := range each {
		machine, err := p.Net.machine("services-" + strconv.Itoa(n+1))
		if err != nil {
			return err
		}
		for _, kind := range []string{"management", "contractor", "booster"} {
			host, port, err := machine.address()
			if err != nil {
				return err
			}
			listen := host + ":" + port
			command := []string{p.Binary, kind, "--dir", p.Dir, "--listen", listen, "--plain",
				"--store", storeURL, "--blob", blobURL, "--key-file", filepath.Join(p.Dir, "key")}
			if kind == "booster" {
				command = append(append(command, "--cluster", "local"), p.Args...)
			}
			if kind == "management" {
				command = append(command, "--public", p.URL)
			}
			q := p.add(fmt.Sprintf("%s-%d", kind, n+1), command, machine)
			if err := q.Start(ctx); err != nil {
				return err
			}
			if kind == "management" {
				p.balancer.Add(listen)
			}
		}
	}
	return nil
}

func (p *Platform) share() string { return cmp.Or(p.Share, "torture") }

// Password is of the store: a server that listens beyond the loopback needs one.
func (p *Platform) Password() (string, error) {
	path := filepath.Join(p.Dir, "store.password")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		text = []byte(rand.Text())
		err = writeThrough(path, string(text))
	}
	return string(text), err
}

// redis starts the store, and returns its URL as the services see it.
func (p *Platform) redis(ctx context.Context) (string, error) {
	binary := p.Redis
	if binary == "" {
		binary = "redis-server"
	}
	binary, err := exec.LookPath(binary)
	if err != nil {
		return "", fmt.Errorf("layout %s needs redis-server, as in Debian's package of that name: %w", p.Kind, err)
	}
	password, err := p.Password()
	if err != nil {
		return "", err
	}
	start := func(name string, more ...[2]string) (string, *Process, error) {
		machine, err := p.Net.machine(name)
		if err != nil {
			return "", nil, err
		}
		host, port, err := machine.address()
		if err != nil {
			return "", nil, err
		}
		dir := filepath.Join(p.Dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", nil, err
		}
		file := filepath.Join(dir, "redis.conf")
		settings := [][2]string{{"port", port}, {"bind", host}, {"dir", dir}, {"requirepass", password}, {"masterauth", password},
			{"appendonly", "yes"}, {"appendfsync", "always"}, {"save", `""`}, {"maxmemory-policy", "noeviction"}}
		if p.Failover { // one that was cut off must not go on alone; and a replica that comes is not kept waiting
			settings = append(settings, [][2]string{{"min-replicas-to-write", "1"}, {"min-replicas-max-lag", "2"}, {"repl-diskless-sync-delay", "0"}}...)
		}
		// Sentinels write into it who is whose replica, for when it starts again.
		if err := configure(file, append(settings, more...)); err != nil {
			return "", nil, err
		}
		command := []string{binary, file}
		q := p.add(name, command, machine)
		q.Dial = host + ":" + port
		return q.Dial, q, q.Start(ctx)
	}
	address, primary, err := start("store")
	if err != nil {
		return "", err
	}
	if !p.Failover {
		if address, err = p.link("store", address, primary.Within); err != nil {
			return "", err
		}
		return "redis://:" + password + "@" + address + "/" + p.share(), nil
	}
	host, port, _ := strings.Cut(address, ":")
	if _, _, err := start("replica", [2]string{"replicaof", host + " " + port}); err != nil {
		return "", err
	}
	var sentinels []string
	for n := range 3 {
		name := "sentinel-" + strconv.Itoa(n+1)
		machine, err := p.Net.machine(name)
		if err != nil {
			return "", err
		}
		at, sport, err := machine.address()
		if err != nil {
			return "", err
		}
		file := filepath.Join(p.Dir, name+".conf")
		watch := "sentinel %s torture "
		err = configure(file, [][2]string{{"port", sport}, {"bind", at}, {"protected-mode", "no"}, {"dir", p.Dir},
			{fmt.Sprintf(watch, "monitor"), host + " " + port + " 2"}, {fmt.Sprintf(watch, "auth-pass"), password},
			{fmt.Sprintf(watch, "down-after-milliseconds"), "1500"}, {fmt.Sprintf(watch, "failover-timeout"), "5000"}})
		if err != nil {
			return "", err
		}
		q := p.add(name, []string{binary, file, "--sentinel"}, machine)
		q.Dial = at + ":" + sport
		if err := q.Start(ctx); err != nil {
			return "", err
		}
		sentinels = append(sentinels, q.Dial)
	}
	return "redis+sentinel://:" + password + "@" + strings.Join(sentinels, ",") + "/torture", nil
}

// configure writes a file of settings, in place of what servers made of it the
// last time.
func configure(path string, settings [][2]string) error {
	var text strings.Builder
	for _, s := range settings {
		fmt.Fprintf(&text, "%s %s\n", s[0], s[1])
	}
	return writeThrough(path, text.String())
}

// writeThrough writes a file that is whole also after a power loss, as all that
// a server is started with must be.
func writeThrough(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close(), dir.Sync(), dir.Close())
}

// s3 starts the blobs, and returns their URL as the services see it.
func (p *Platform) s3(ctx context.Context) (string, error) {
	binary, err := exec.LookPath(p.S3)
	if err != nil {
		return "", fmt.Errorf("layout %s needs versitygw: make bin/versitygw: %w", p.Kind, err)
	}
	machine, err := p.Net.machine("blob")
	if err != nil {
		return "", err
	}
	host, port, err := machine.address()
	if err != nil {
		return "", err
	}
	dir := p.Blobs
	if dir == "" {
		dir = filepath.Join(p.Dir, "s3")
	}
	buckets, attributes := filepath.Join(dir, "buckets"), filepath.Join(dir, "attributes")
	if err := errors.Join(os.MkdirAll(buckets, 0o700), os.MkdirAll(attributes, 0o700)); err != nil {
		return "", err
	}
	q := p.add("blob", []string{binary, "--port", host + ":" + port, "--quiet", "posix", "--sidecar", attributes, buckets}, machine)
	q.Env = append(q.Env[:len(q.Env):len(q.Env)], "ROOT_ACCESS_KEY=torture", "ROOT_SECRET_KEY=torture-secret")
	q.Dial = host + ":" + port
	if err := q.Start(ctx); err != nil {
		return "", err
	}
	address, err := p.link("blob", q.Dial, q.Within)
	if err != nil {
		return "", err
	}
	return "s3://torture:torture-secret@" + p.share() + "?endpoint=http://" + address + "&create=true", nil
}

// link puts a Link before an address, where one is asked for.
func (p *Platform) link(name, address string, within func(func() error) error) (string, error) {
	if !p.Proxy {
		return address, nil
	}
	l := &link.Link{To: address, Host: p.Net.Gateway()}
	p.Links[name] = l
	return l.Start()
}
