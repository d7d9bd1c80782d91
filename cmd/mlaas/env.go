package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
)

func (c *cli) envCommand() *cobra.Command {
	env := &cobra.Command{Use: "env", Short: "Environments: ls",
		Example: "  mlaas env ls                 what there is to choose from, and what was resolved"}
	var framework string
	list := &cobra.Command{Use: "ls", Short: "List the frameworks there are, and the environments that were resolved", Args: cobra.NoArgs,
		Example: "  mlaas env ls\n  mlaas env ls --framework pytorch -o json",
		RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
			all, err := cl.Environments(ctx, framework)
			if err != nil {
				return err
			}
			var names []string
			choose := table{Head: []string{"FRAMEWORK", "INSTALLS", "PYTHON", "NOTE"}}
			for _, f := range all.Catalogue {
				choose.row(f.Name, dash(strings.Join(f.Packages, " ")), first(strings.Join(f.Pythons, " "), "any"), f.Notes)
				names = append(names, f.Name)
			}
			resolved := table{Head: []string{"RESOLVED", "PYTHON", "PACKAGES", "LOCK", "BEFORE", "MADE"}}
			for _, e := range all.Items {
				resolved.row(e.Framework, first(e.Python, "any"), dash(strings.Join(e.Packages, " ")), short(e.Lock), fmt.Sprint(len(e.Previous)), ago(time.Now(), e.Created))
			}
			return c.show(all, names, func() string {
				if len(resolved.Rows) == 0 {
					return choose.String()
				}
				return choose.String() + "\n" + resolved.String()
			})
		})}
	list.Flags().StringVar(&framework, "framework", "", "of one framework alone")
	env.AddCommand(list)
	return env
}

// knownFramework reports whether the platform can make an environment of this
// framework, and names the nearest where it cannot.
func knownFramework(ctx context.Context, cl *client.Client, framework string) error {
	if framework == "" {
		return nil // an image
	}
	all, err := cl.Environments(ctx, framework)
	if err != nil || len(all.Catalogue) == 0 {
		return err
	}
	var names []string
	for _, f := range all.Catalogue {
		if f.Name == framework {
			return nil
		}
		names = append(names, f.Name)
	}
	t := tell{What: fmt.Sprintf("there is no framework %q", framework), Fix: "use one of " + strings.Join(names, ", "), Kind: mlaas.ErrInvalid}
	if near := meant(framework, names); near != "" {
		t.Fix = fmt.Sprintf("did you mean   --framework %s ?   There are %s", near, strings.Join(names, ", "))
	}
	return t
}
