// Command mlaas is the whole platform and the way to talk to it: `mlaas up`
// starts the services, and every other command is a client of their REST API.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // whoever presses Ctrl+C again is not asked again
	c := &cli{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Getenv}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		c.Width = func() int {
			w, _, err := term.GetSize(int(os.Stderr.Fd()))
			if err != nil {
				return 80
			}
			return w
		}
	}
	c.Terminal = term.IsTerminal(int(os.Stdout.Fd()))
	code := c.Main(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// A cli is one call of the command: where it reads and writes, and what its
// global flags say. Data goes to Out, talk goes to Err.
type cli struct {
	In    io.Reader
	Out   io.Writer
	Err   io.Writer
	Env   func(string) string
	Width func() int // of the terminal behind Err; nil: it is none

	Terminal bool // Out is one

	url, token, dir, output string
	debug, quiet            bool
	begun                   bool // the command line was understood
}

// Main does what args say and returns the exit code. It prints an error, if
// there is one.
func (c *cli) Main(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if !c.begun {
		err = misused(cmd, err)
	}
	return c.fail(ctx, err)
}

// root is the tree of commands.
func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "mlaas",
		Short: "Machine learning as a service, on one machine or many",
		Long: `mlaas runs machine-learning programs on as many replicas as you ask for,
shows what each of them says as it says it, and keeps what they made.`,
		Example: `  mlaas up                                  start the platform on this machine
  mlaas run train.py --follow               run a program and watch it
  mlaas run ./mnist --ps 1 --workers 2 -f   a folder, on one parameter server and two workers
  mlaas logs mnist -f                       watch it from elsewhere
  mlaas job stop mnist                      stop it`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			c.begun = true
			return c.checkOutput()
		},
	}
	root.SetIn(c.In)
	root.SetOut(c.Out)
	root.SetErr(c.Err)
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(helpTemplate)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SuggestionsMinimumDistance = 2

	f := root.PersistentFlags()
	f.StringVar(&c.url, "url", "", "address of the platform (else MLAAS_URL, else DIR/url)")
	f.StringVar(&c.token, "token", "", "token for it (else MLAAS_TOKEN, else DIR/token)")
	f.StringVar(&c.dir, "dir", "", "data folder of a platform on this machine (else MLAAS_DIR, else ~/.mlaas)")
	f.StringVarP(&c.output, "output", "o", "table", "how to print data: table, json, yaml or name")
	f.BoolVarP(&c.quiet, "quiet", "q", false, "no talk on stderr but errors")
	f.BoolVar(&c.debug, "debug", false, "show each HTTP exchange on stderr")

	root.AddGroup(
		&cobra.Group{ID: "work", Title: "Run and watch:"},
		&cobra.Group{ID: "things", Title: "What there is:"},
		&cobra.Group{ID: "platform", Title: "The platform:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, sub := range commands {
			sub.GroupID = group
			root.AddCommand(sub)
		}
	}
	add("work", c.runCommand(), c.completesJobs(c.logsCommand()), c.completesJobs(c.metricsCommand()), c.completesJobs(c.evaluationCommand()), c.completesJobs(c.replicasCommand()),
		c.completesJobs(c.shellCommand()), c.completesJobs(c.forwardCommand()), c.copyCommand(), c.completesJobs(c.kernelCommand()),
		c.completesJobs(c.stackCommand()), c.completesJobs(c.debugCommand()))
	add("things", c.jobCommand(), c.codeCommand(), c.templateCommand(), c.ruleCommand(), c.dataCommand(), c.envCommand(), c.secretCommand(), c.notifyCommand(), c.sessionCommand())
	add("platform", c.upCommand(), c.downCommand(), c.managementCommand(), c.contractorCommand(), c.boosterCommand(), c.statusCommand(), c.clusterCommand(), c.doctorCommand(), c.gcCommand(), c.backupCommand(), c.restoreCommand(),
		c.benchCommand(), c.apiCommand(), c.versionCommand(), c.completionCommand())
	root.AddCommand(exitCodes(), superviseCommand(), installCommand(), enterCommand())
	root.SetHelpCommandGroupID("platform")
	groups(root)
	return root
}

// groups makes each command that only holds others show its help, and refuse
// a word that is none of them.
func groups(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		groups(sub)
	}
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = cobra.NoArgs
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
}

// helpTemplate opens with examples: most of us read those alone.
const helpTemplate = `{{if .Example}}Examples:
{{.Example}}

{{end}}{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if .HasAvailableSubCommands}}Usage:
  {{.CommandPath}} COMMAND
{{else if .Runnable}}Usage:
  {{.UseLine}}
{{end}}{{if gt (len .Aliases) 0}}
Also called:
  {{.NameAndAliases}}
{{end}}{{if .HasAvailableSubCommands}}{{$all := .Commands}}{{if eq (len .Groups) 0}}
Commands:{{range $all}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{else}}{{range $group := .Groups}}
{{.Title}}{{range $all}}{{if and (eq .GroupID $group.ID) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}
Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableInheritedFlags}}
Everywhere:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}`
