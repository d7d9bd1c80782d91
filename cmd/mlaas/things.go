package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) secretCommand() *cobra.Command {
	secret := &cobra.Command{Use: "secret", Short: "Secrets: set, ls, rm; nobody reads them back",
		Example: `  mlaas secret set hub-token             asks for it, or reads standard input
  mlaas run train.py --secret hub-token  the program finds it as $HUB_TOKEN`}
	secret.AddCommand(
		&cobra.Command{Use: "set NAME", Short: "Set a secret: typed, or from standard input", Args: one("one NAME", "mlaas secret set hub-token"),
			Example: "  mlaas secret set hub-token\n  mlaas secret set hub-token < token.txt",
			RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
				value, err := c.hidden(args[0])
				if err != nil {
					return err
				}
				s, err := cl.SetSecret(ctx, args[0], value)
				if err != nil {
					return err
				}
				c.done("%s is set, version %d; runs from now on get it", args[0], s.Version)
				return nil
			})},
		&cobra.Command{Use: "ls", Short: "List the secrets, without what they say", Args: cobra.NoArgs, Example: "  mlaas secret ls",
			RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
				all, err := client.Collect(cl.Secrets(ctx))
				if err != nil {
					return err
				}
				t := table{Head: []string{"NAME", "VERSION", "SET"}}
				var names []string
				for _, s := range all {
					t.row(s.Name, fmt.Sprint(s.Version), ago(time.Now(), s.Updated))
					names = append(names, s.Name)
				}
				return c.show(all, names, t.String)
			})},
		&cobra.Command{Use: "rm NAME...", Short: "Delete secrets", Args: some("one NAME or more", "mlaas secret rm hub-token"), Example: "  mlaas secret rm hub-token",
			RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
				for _, name := range args {
					if err := cl.DeleteSecret(ctx, name); err != nil {
						return err
					}
					c.done("%s is deleted", name)
				}
				return nil
			})},
	)
	return secret
}

// hidden reads a value without showing it. What a program pipes in loses its
// last newline, which echo put there.
func (c *cli) hidden(name string) (string, error) {
	if f, ok := c.In.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprintf(c.Err, "%s: ", name)
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(c.Err)
		return string(text), err
	}
	text, err := io.ReadAll(io.LimitReader(c.In, 1<<20))
	if err == nil && len(text) == 0 {
		err = tell{What: "standard input is empty", Fix: "mlaas secret set " + name + " < FILE", Kind: mlaas.ErrInvalid}
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), err
}

func (c *cli) sessionCommand() *cobra.Command {
	session := &cobra.Command{Use: "session", Short: "Logins: login, ls, revoke",
		Example: "  mlaas session login\n  mlaas session ls\n  mlaas session revoke 01jd..."}
	session.AddCommand(
		&cobra.Command{Use: "login", Short: "Print a link that lets one browser in, once", Args: cobra.NoArgs, Example: "  mlaas session login",
			RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
				l, err := cl.Login(ctx)
				if err != nil {
					return err
				}
				at := strings.TrimSuffix(cl.URL, "/") + l.Path
				return c.show(map[string]any{"url": at, "expires": l.Expires}, []string{at}, func() string {
					return at + "\n"
				})
			})},
		&cobra.Command{Use: "ls", Short: "List who is logged in", Args: cobra.NoArgs, Example: "  mlaas session ls",
			RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
				all, err := client.Collect(cl.Sessions(ctx))
				if err != nil {
					return err
				}
				t := table{Head: []string{"ID", "BROWSER", "FROM", "MADE", "UNTIL"}}
				var names []string
				for _, s := range all {
					until := s.Expires.Local().Format("2006-01-02 15:04")
					if s.Revoked != nil {
						until = "revoked"
					}
					t.row(s.ID, dash(cut(s.Agent, 40)), dash(s.Address), ago(time.Now(), s.Created), until)
					names = append(names, s.ID)
				}
				return c.show(all, names, t.String)
			})},
		&cobra.Command{Use: "revoke ID...", Short: "End logins", Args: some("one ID or more", "mlaas session ls"), Example: "  mlaas session revoke 01jd...",
			RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
				for _, id := range args {
					if err := cl.RevokeSession(ctx, id); err != nil {
						return err
					}
					c.done("%s is revoked", id)
				}
				return nil
			})},
	)
	return session
}
