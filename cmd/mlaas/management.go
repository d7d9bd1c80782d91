package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/auth"
	"mlaas.dev/mlaas/health"
	"mlaas.dev/mlaas/management"
)

func (c *cli) managementCommand() *cobra.Command {
	var tokenFile, address, clusters string
	var hosts []string
	var exec, private bool
	return c.serviceCommand("management", "Run the service that people and programs talk to",
		`Runs management: the REST API, the live stream and the page. It writes what
users wish for and reads what becomes of it.`,
		"  mlaas management --store redis://:PASSWORD@10.0.0.2:6379/mlaas --blob s3://mlaas?endpoint=https://10.0.0.3 --key-file key --listen 127.0.0.1:7480",
		func(cmd *cobra.Command, _ *service) {
			cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with the owner's token (else MLAAS_TOKEN_FILE, else DIR/token); made if it is not there")
			cmd.Flags().StringVar(&address, "public", "", "URL by which people reach the platform, where a balancer is in front (else where this one listens)")
			cmd.Flags().StringVar(&clusters, "clusters", "", "YAML file that says which clusters there are; it is read again when it changes")
			cmd.Flags().BoolVar(&exec, "allow-exec", false, "take a kubeconfig that names a program which finds credentials: boosters run it")
			cmd.Flags().BoolVar(&private, "private-git", false, privateGit)
			cmd.Flags().StringSliceVar(&hosts, "host", nil, "names by which browsers call this server, besides those of the loopback")
		},
		func(ctx context.Context, s *service) error {
			if u, err := url.Parse(address); err != nil || address != "" && (u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
				return mlaas.Invalid("--public", "a URL such as https://mlaas.example.org", address)
			} else if address != "" {
				hosts = append(hosts, u.Hostname())
			}
			return runManagement(ctx, s, strings.TrimSuffix(address, "/"), first(tokenFile, c.Env("MLAAS_TOKEN_FILE"), filepath.Join(s.Dir, "token")), clusters, exec, private, hosts)
		})
}

func runManagement(ctx context.Context, s *service, address, tokenFile, clusters string, exec, private bool, hosts []string) error {
	token, err := secret(tokenFile, 32)
	if err != nil {
		return err
	}
	blobs, err := openBucket(ctx, s.Blob, s.Log)
	if err != nil {
		return err
	}
	db, l, err := s.join(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	remote, err := s.remote(db, blobs)
	if err != nil {
		return err
	}
	inside, err := s.inside()
	if err != nil {
		return err
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	m := &management.Management{
		DB: db, Blob: blobs, Series: remote, Inside: inside, Key: s.secret, Log: s.Log, Hosts: hosts,
		Auth:      &auth.Requests{DB: db, Token: hex.EncodeToString(token)},
		Catalogue: catalogue(),
		AllowExec: exec,
		Prepare:   preview{Dir: filepath.Join(s.Dir, "preview"), Env: filepath.Join(s.Dir, "env"), Binary: binary, Blob: blobs, Log: s.Log}.Prepare,
		Fetch:     repositories{Private: private, Log: s.Log}.Fetch,
		Info:      func(context.Context) (management.Info, error) { return s.info() },
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "url"), []byte(first(address, s.Advertise)+"\n"), 0o644); err != nil {
		return err
	}
	requests := map[string]func(context.Context) error{"management": m.Run, "series": remote.Run, "bucket": blobs.Run}
	if clusters != "" {
		file := &clusterFile{Path: clusters, Exec: exec, Apply: m.Declare, Log: s.Log}
		if err := file.once(ctx); err != nil {
			return err
		}
		requests["clusters"] = file.Run
	}
	link, err := m.Invite(ctx, mlaas.DefaultTenant)
	if err != nil {
		return err
	}
	m.Trace, m.Metrics = s.tracer, s.metrics.Handler()
	showManagement(s.metrics, m)
	m.Health = s.prober(health.Store(db, s.ID), health.Messages(db, false), health.Blob(blobs), health.Disk(s.Dir))
	server := m.Server()
	server.Handler = site(m)
	s.Say("open  %s", first(address, s.Advertise)+link)
	return s.serve(ctx, l, server, m.Leave, requests, nil)
}

// info says what only this process knows.
func (s *service) info() (management.Info, error) {
	i := management.Info{Version: release(), Data: s.Dir, Disk: map[string]mlaas.Bytes{}, Caps: map[string]mlaas.Bytes{}}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(s.Dir, &disk); err != nil {
		return i, fmt.Errorf("%s: %w", s.Dir, err)
	}
	i.Free = mlaas.Bytes(disk.Bavail) * mlaas.Bytes(disk.Bsize)
	return i, nil
}
