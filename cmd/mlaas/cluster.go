package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/client"
	"mlaas.dev/mlaas/internal/kubeconfig"
)

func (c *cli) clusterCommand() *cobra.Command {
	cluster := &cobra.Command{Use: "cluster", Aliases: []string{"clusters"}, Short: "Places to run replicas: ls, add, show, set, drain, resume, remove, test, token",
		Example: `  mlaas cluster ls
  mlaas cluster add lab --kubeconfig lab.yaml --door https://booster.example.org/cluster/lab --supervisor registry.example.org/mlaas:1
  mlaas cluster drain lab          what runs there goes on, nothing new begins
  mlaas cluster remove lab         what runs there moves elsewhere`}
	cluster.AddCommand(c.clusterList(), c.clusterAdd(), c.completesClusters(c.clusterShow()), c.completesClusters(c.clusterSet()), c.completesClusters(c.clusterTest()), c.completesClusters(c.clusterToken()),
		c.clusterWant("drain", "Place nothing new on a cluster; what runs there goes on", "nothing new begins on %s", func(ctx context.Context, cl *client.Client, name string) error {
			_, err := cl.EditCluster(ctx, name, client.ClusterAsk{Wanted: mlaas.ClusterDrain})
			return err
		}),
		c.clusterWant("resume", "Place runs on a cluster that was drained again", "runs are placed on %s again", func(ctx context.Context, cl *client.Client, name string) error {
			_, err := cl.EditCluster(ctx, name, client.ClusterAsk{Wanted: mlaas.ClusterServe})
			return err
		}),
		c.completesClusters(c.clusterRemove()),
	)
	return cluster
}

func (c *cli) clusterList() *cobra.Command {
	return &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List the clusters, what they have and what is promised", Args: cobra.NoArgs, Example: "  mlaas cluster ls",
		RunE: c.with(func(ctx context.Context, cl *client.Client, _ []string) error {
			all, err := client.Collect(cl.Clusters(ctx))
			if err != nil {
				return err
			}
			t := table{Head: []string{"NAME", "KIND", "UP", "CPU", "MEMORY", "GPU", "HEARD", "NOTE"}}
			var names []string
			for _, k := range all {
				t.row(k.Name, k.Kind, upness(k), fmt.Sprintf("%s of %s", k.Used.CPU, k.Capacity.CPU),
					fmt.Sprintf("%s of %s", size(k.Used.Memory), size(k.Capacity.Memory)),
					gpusOf(k), heardOf(k), strings.Join(append(k.Limits, k.Reason), " "))
				names = append(names, k.Name)
			}
			return c.show(all, names, t.String)
		})}
}

// upness is in a word how a cluster does and what is wanted of it.
func upness(k client.Cluster) string {
	up := "yes"
	if !k.Up {
		up = "no"
	}
	switch k.Wanted {
	case mlaas.ClusterDrain:
		up += ", drained"
	case mlaas.ClusterGone:
		up += ", goes"
	}
	return up
}

// gpusOf is how many of its GPUs are promised; of each kind, where there are
// several.
func gpusOf(k client.Cluster) string {
	if len(k.GPUs) == 0 || len(k.UsedGPUs) != len(k.GPUs) {
		return fmt.Sprintf("%d of %d", k.Used.GPU.Count, k.Capacity.GPU.Count)
	}
	var all []string
	for i, g := range k.GPUs {
		all = append(all, fmt.Sprintf("%d of %d %s", k.UsedGPUs[i].Count, g.Count, g.Kind))
	}
	return strings.Join(all, ", ")
}

func heardOf(k client.Cluster) string {
	if k.Heard.IsZero() {
		return "never"
	}
	return ago(time.Now(), k.Heard)
}

func (c *cli) clusterShow() *cobra.Command {
	return &cobra.Command{Use: "show NAME", Aliases: []string{"get"}, Short: "Show a cluster: how it does, what it has, how it is reached", Args: one("the name of a cluster", "mlaas cluster ls"),
		Example: "  mlaas cluster show lab\n  mlaas cluster show lab -o yaml",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			k, err := cl.Cluster(ctx, args[0])
			if err != nil {
				return err
			}
			return c.show(k, []string{k.Name}, func() string { return portrait(k) })
		})}
}

// portrait is a cluster in lines.
func portrait(k client.Cluster) string {
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s %s\n", what, fmt.Sprintf(format, args...))
	}
	state := "up"
	if !k.Up {
		state = "down"
	}
	line(k.Name, "%s, %s: %s", k.Kind, state, dash(k.Reason))
	switch k.Wanted {
	case mlaas.ClusterDrain:
		line("wanted", "what runs there goes on, nothing new begins; mlaas cluster resume %s ends that", k.Name)
	case mlaas.ClusterGone:
		line("wanted", "it goes: what runs there moves elsewhere, then it is forgotten")
		for _, l := range k.Left {
			line("left", "%s", l)
		}
	}
	if !k.Current() {
		line("changed", "%s; what is said here is of before", ago(time.Now(), *k.Changed))
	}
	line("heard", "%s", heardOf(k))
	line("promised", "cpu %s of %s, memory %s of %s, GPUs %s, to %s", k.Used.CPU, k.Capacity.CPU, size(k.Used.Memory), size(k.Capacity.Memory), gpusOf(k), count(k.Runs, "run"))
	for _, l := range k.Limits {
		line("limit", "%s", l)
	}
	if k.Server != "" {
		line("server", "%s", k.Server)
	}
	if k.Door != "" {
		line("door", "%s", k.Door)
	}
	if k.Kube != nil {
		text, err := yaml.Marshal(k.Kube)
		if err == nil {
			for row := range strings.Lines(string(text)) {
				line("lends", "%s", strings.TrimRight(row, "\n"))
			}
		}
	}
	if k.Declared {
		line("declared", "in the file of clusters that the platform was started with: it is changed there")
	}
	return b.String()
}

// A reaching is how a cluster is reached and what it lends, as a command line
// says it.
type reaching struct {
	kubeconfig, context, door, supervisor, namespace, settings string
	images                                                     []string
	exec, remote                                               bool
}

func (x *reaching) flags(f *pflag.FlagSet) {
	f.StringVar(&x.kubeconfig, "kubeconfig", "", "file that says how to reach its API server; what it names as files is taken in")
	f.StringVar(&x.context, "context", "", "which context of the kubeconfig (else its current one)")
	f.StringVar(&x.door, "door", "", "URL by which its replicas reach the booster, such as https://booster.example.org/cluster/NAME")
	f.StringVar(&x.supervisor, "supervisor", "", "the image that has the mlaas binary at /mlaas")
	f.StringVar(&x.namespace, "namespace", "", "where its replicas are (else mlaas)")
	f.StringArrayVar(&x.images, "image", nil, "what jobs of a framework run in, as FRAMEWORK=IMAGE; may be repeated")
	f.StringVar(&x.settings, "settings", "", "YAML file with everything it lends: images, volumes, GPUs, node selectors, tolerations, quota; see mlaas cluster show NAME -o yaml, kube")
	f.BoolVar(&x.exec, "allow-exec", false, "take a kubeconfig that names a program which finds credentials: it runs where booster does")
}

// ask is what is to be told of it. The settings are a patch: what was not said
// is not there.
func (x *reaching) ask() (ask client.ClusterAsk, err error) {
	ask.Door = x.door
	kube := map[string]any{}
	if x.settings != "" {
		text, err := os.ReadFile(x.settings)
		if err != nil {
			return ask, err
		}
		as, err := yaml.YAMLToJSON(text)
		if err == nil {
			err = mlaas.Decode(as, new(mlaas.KubeSettings))
		}
		if err == nil {
			err = yaml.Unmarshal(as, &kube)
		}
		if err != nil {
			return ask, fmt.Errorf("%s: %w", x.settings, err)
		}
	}
	if x.supervisor != "" {
		kube["supervisor"] = x.supervisor
	}
	if x.namespace != "" {
		kube["namespace"] = x.namespace
	}
	if len(x.images) > 0 {
		images, _ := kube["images"].(map[string]any)
		if images == nil {
			images = map[string]any{}
		}
		for _, pair := range x.images {
			framework, image, ok := strings.Cut(pair, "=")
			if !ok || framework == "" || image == "" {
				return ask, mlaas.Invalid("--image", "FRAMEWORK=IMAGE", pair)
			}
			images[framework] = image
		}
		kube["images"] = images
	}
	if len(kube) > 0 {
		ask.Kube = kube
	}
	if x.kubeconfig != "" {
		config, err := readKubeconfig(x.kubeconfig, x.context, x.exec)
		if err != nil {
			return ask, err
		}
		ask.Kubeconfig = string(config.Text())
	}
	return ask, nil
}

// readKubeconfig reads a kubeconfig and makes it one that needs no other file.
func readKubeconfig(file, context string, exec bool) (*kubeconfig.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	config, err := kubeconfig.Read(text, context)
	if err == nil {
		err = config.Inline(filepath.Dir(file), os.ReadFile)
	}
	if err == nil {
		err = config.Check(exec)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return config, nil
}

func (c *cli) clusterAdd() *cobra.Command {
	var x reaching
	var tokenFile string
	var wait time.Duration
	add := &cobra.Command{Use: "add NAME", Short: "Add a cluster: by a kubeconfig, or one that calls by itself",
		Long: `Adds a cluster while the platform runs. A kubeconfig goes there with all that it
needs, is sealed, and nobody can read it back; this machine needs it no more.

With --remote nobody needs to reach the cluster: a booster inside it calls the
platform with a token, which is written to --token-file.`,
		Args: one("a name for the cluster", "mlaas cluster add lab --kubeconfig lab.yaml --door https://booster.example.org/cluster/lab --supervisor IMAGE"),
		Example: `  mlaas cluster add lab --kubeconfig ~/.kube/config --context lab --door https://booster.example.org/cluster/lab --supervisor registry.example.org/mlaas:1
  mlaas cluster add far --remote --token-file far.token`,
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			name := args[0]
			switch {
			case x.remote && tokenFile == "":
				return tell{What: "a remote cluster has a token, and there is no place for it", Fix: "name a file that is not there yet:   --token-file " + name + ".token", Kind: mlaas.ErrSyntax}
			case !x.remote && x.kubeconfig == "":
				return tell{What: "it is not said how to reach " + name, Fix: "--kubeconfig FILE   or, where nobody can reach it from here,   --remote --token-file FILE", Kind: mlaas.ErrSyntax}
			}
			ask, err := x.ask()
			if err != nil {
				return err
			}
			ask.Name = name
			if x.remote {
				ask.Kind = mlaas.ClusterRemote
			}
			k, err := cl.AddCluster(ctx, ask)
			if err != nil {
				return err
			}
			if x.remote {
				if err := c.writeToken(ctx, cl, name, tokenFile); err != nil {
					return err
				}
				c.done("%s is added; inside it, run   mlaas booster --cluster %s --gateway URL --cluster-token-file %s", name, name, tokenFile)
				return c.show(k, []string{name}, silent)
			}
			k, err = awaitCluster(ctx, cl, name, wait)
			switch {
			case err != nil:
				return err
			case k.Up && k.Current():
				c.done("%s is added and up: cpu %s, memory %s, %s", name, k.Capacity.CPU, size(k.Capacity.Memory), count(k.Capacity.GPU.Count, "GPU"))
			default:
				c.say("! %s is added and not up: %s; see   mlaas cluster show %s", name, dash(k.Reason), name)
			}
			return c.show(k, []string{name}, silent)
		})}
	x.flags(add.Flags())
	add.Flags().BoolVar(&x.remote, "remote", false, "nobody reaches it: a booster inside it calls the platform")
	add.Flags().StringVar(&tokenFile, "token-file", "", "with --remote: where to write the token that the booster inside shows; it must not be there yet")
	add.Flags().DurationVar(&wait, "wait", 15*time.Second, "how long to wait for the first word of the cluster")
	return add
}

// silent prints nothing where what was done is said already.
func silent() string { return "" }

// awaitCluster waits until it is said how a cluster does as it is now reached.
func awaitCluster(ctx context.Context, cl *client.Client, name string, wait time.Duration) (k client.Cluster, err error) {
	until := time.NewTimer(wait)
	defer until.Stop()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		if k, err = cl.Cluster(ctx, name); err != nil || k.Current() && (k.Up || !k.Of.IsZero()) {
			return k, err
		}
		select {
		case <-ctx.Done():
			return k, ctx.Err()
		case <-until.C:
			return k, nil
		case <-tick.C:
		}
	}
}

// writeToken makes a token and keeps it in a new file of its owner alone.
func (c *cli) writeToken(ctx context.Context, cl *client.Client, name, file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // before the token is made: it is shown once
	if err != nil {
		return err
	}
	token, err := cl.ClusterToken(ctx, name)
	if err == nil {
		_, err = f.WriteString(token + "\n")
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(file)
	}
	return err
}

func (c *cli) clusterToken() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "token NAME", Short: "Make a new token for a remote cluster; the one before ends", Args: one("the name of a cluster", "mlaas cluster token far --file far.token"),
		Example: "  mlaas cluster token far --file far.token",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			if file == "" {
				return tell{What: "there is no place for the token", Fix: "name a file that is not there yet:   --file " + args[0] + ".token", Kind: mlaas.ErrSyntax}
			}
			if err := c.writeToken(ctx, cl, args[0], file); err != nil {
				return err
			}
			c.done("the token of %s is in %s; the one before is worth nothing now", args[0], file)
			return nil
		})}
	cmd.Flags().StringVar(&file, "file", "", "where to write it; it must not be there yet")
	return cmd
}

func (c *cli) clusterSet() *cobra.Command {
	var x reaching
	var wait time.Duration
	set := &cobra.Command{Use: "set NAME", Short: "Change how a cluster is reached or what it lends", Args: one("the name of a cluster", "mlaas cluster set lab --kubeconfig new.yaml"),
		Long: "Changes what is named; the rest stays. The cluster is connected anew, and what\nruns there goes on.",
		Example: `  mlaas cluster set lab --kubeconfig new.yaml
  mlaas cluster set lab --image tensorflow=registry.example.org/tf@sha256:...`,
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			ask, err := x.ask()
			if err != nil {
				return err
			}
			if ask.Kube == nil && ask.Door == "" && ask.Kubeconfig == "" {
				return tell{What: "nothing to change is named", Fix: "see   mlaas cluster set --help", Kind: mlaas.ErrSyntax}
			}
			if _, err := cl.EditCluster(ctx, args[0], ask); err != nil {
				return err
			}
			k, err := awaitCluster(ctx, cl, args[0], wait)
			if err != nil {
				return err
			}
			if k.Up && k.Current() {
				c.done("%s is changed and up", args[0])
			} else {
				c.say("! %s is changed and not up: %s", args[0], dash(k.Reason))
			}
			return c.show(k, []string{args[0]}, silent)
		})}
	x.flags(set.Flags())
	set.Flags().DurationVar(&wait, "wait", 15*time.Second, "how long to wait for the first word of the cluster")
	return set
}

func (c *cli) clusterTest() *cobra.Command {
	var wait time.Duration
	test := &cobra.Command{Use: "test NAME", Short: "Say whether the platform reaches a cluster, and why not", Args: one("the name of a cluster", "mlaas cluster ls"),
		Long:    "Waits for the first word of the cluster as it is reached now. It ends with exit\ncode 0 where the cluster is up, and 7 where it is not.",
		Example: "  mlaas cluster test lab",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			k, err := awaitCluster(ctx, cl, args[0], wait)
			switch {
			case err != nil:
				return err
			case !k.Current():
				return tell{What: fmt.Sprintf("%s was not heard of within %s since it was changed", k.Name, wait), Why: dash(k.Reason), Fix: "see whether a booster that serves it runs:   mlaas status", Kind: mlaas.ErrUnavailable}
			case !k.Up:
				return tell{What: k.Name + " is down", Why: k.Reason, Fix: "change how it is reached:   mlaas cluster set " + k.Name + " --kubeconfig FILE", Kind: mlaas.ErrUnavailable}
			}
			c.done("%s is up: cpu %s, memory %s, %s; heard %s", k.Name, k.Capacity.CPU, size(k.Capacity.Memory), count(k.Capacity.GPU.Count, "GPU"), heardOf(k))
			return nil
		})}
	test.Flags().DurationVar(&wait, "wait", 15*time.Second, "how long to wait for its first word")
	return test
}

// clusterWant makes a command that says what is wanted of clusters.
func (c *cli) clusterWant(use, short, done string, do func(ctx context.Context, cl *client.Client, name string) error) *cobra.Command {
	return c.completesClusters(&cobra.Command{Use: use + " NAME...", Short: short, Args: some("one name or more", "mlaas cluster ls"), Example: "  mlaas cluster " + use + " lab",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			for _, name := range args {
				if err := do(ctx, cl, name); err != nil {
					return err
				}
				c.done(done, name)
			}
			return nil
		})})
}

func (c *cli) clusterRemove() *cobra.Command {
	var wait time.Duration
	remove := &cobra.Command{Use: "remove NAME...", Aliases: []string{"rm"}, Short: "Remove clusters; what runs there moves elsewhere", Args: some("one name or more", "mlaas cluster ls"),
		Long: `Removes clusters. What runs there is asked to save its work and goes on elsewhere
from its last checkpoint; then the cluster is forgotten. Its logs stay.

With --wait it returns once nothing of the platform's is left there, or says what
is and ends with exit code 124. A cluster that does not answer is forgotten once
its replicas are given up.`,
		Example: "  mlaas cluster remove lab\n  mlaas cluster remove lab --wait 5m",
		RunE: c.with(func(ctx context.Context, cl *client.Client, args []string) error {
			for _, name := range args {
				if _, err := cl.RemoveCluster(ctx, name); err != nil {
					return err
				}
			}
			late := false
			for _, name := range args {
				k, gone, err := awaitGone(ctx, cl, name, wait)
				switch {
				case err != nil:
					return err
				case gone && k.Name != "" && !k.Up:
					c.say("%s %s is gone; it did not answer, so what ran there may be there still: %s", c.paint(yellow, "!"), name, dash(k.Reason))
				case gone:
					c.done("%s is gone", name)
				case wait > 0:
					late = true
					c.say("%s %s still goes after %s", c.paint(yellow, "!"), name, wait)
					for _, l := range k.Left {
						c.say("  %s", l)
					}
				default:
					c.done("%s goes; what runs there moves elsewhere", name)
				}
			}
			if late {
				return exit(exitTimeout)
			}
			return nil
		})}
	remove.Flags().DurationVar(&wait, "wait", 0, "how long to wait until it is gone")
	return remove
}

// awaitGone waits until a cluster is gone, and returns how it was last.
func awaitGone(ctx context.Context, cl *client.Client, name string, wait time.Duration) (last client.Cluster, gone bool, err error) {
	until := time.NewTimer(wait)
	defer until.Stop()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		k, err := cl.Cluster(ctx, name)
		if errors.Is(err, mlaas.ErrNotFound) {
			return last, true, nil
		}
		if err != nil || wait == 0 {
			return k, false, err
		}
		last = k
		select {
		case <-ctx.Done():
			return last, false, ctx.Err()
		case <-until.C:
			return last, false, nil
		case <-tick.C:
		}
	}
}

// completesClusters makes a command offer the names of clusters.
func (c *cli) completesClusters(cmd *cobra.Command) *cobra.Command {
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		cl, err := c.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
		defer cancel()
		all, err := client.Collect(cl.Clusters(ctx))
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, k := range all {
			if strings.HasPrefix(k.Name, begun) && !slices.Contains(args, k.Name) {
				names = append(names, k.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}
