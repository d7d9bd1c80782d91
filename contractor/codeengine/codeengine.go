// Package codeengine says what each replica of a run is told to do: its
// command, the variables by which the program finds its peers, its parameters
// and its share of the processor, and the recipe by which its code is prepared.
//
// It is pure: the run and where its replicas stand go in, a [mlaas.Launch]
// comes out. It never sees the code: the recipe is data, and each supervisor
// applies it with the Python of the environment.
package codeengine

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/template"
)

// DefaultGrace is how long a program has between a polite stop and its end
// where the user says nothing.
const DefaultGrace mlaas.Seconds = 10

// Grace is how long the run's program has between a polite stop and its end.
func Grace(spec mlaas.JobSpec) mlaas.Seconds {
	if spec.Execution.Grace > 0 {
		return spec.Execution.Grace
	}
	return DefaultGrace
}

// Input is all that a launch is made from.
type Input struct {
	Run      mlaas.Run
	Attempt  mlaas.Attempt   // its epoch, and the checkpoint that it begins from
	Replicas []mlaas.Replica // every one that was granted, ready: with address and ports
	Lock     mlaas.Digest    // of the environment, where it is known
	Data     []mlaas.DataTree
	Key      string // by which the replicas of this attempt know each other
}

// Check reports why this version cannot launch a run, an ErrInvalid; it is nil
// where it can.
func Check(run mlaas.Run) error {
	if run.Kernel != nil {
		return nil
	}
	if run.Spec.Code.Mode == "guiding" {
		_, err := template.Main(run.Spec.Environment.Framework)
		return err
	}
	if len(run.Spec.Execution.Command) == 0 && run.Version.Entry == "" {
		return fmt.Errorf("execution.command is empty and version %s has neither a main.py nor exactly one .py file to start: %w", run.Version.ID, mlaas.ErrInvalid)
	}
	return nil
}

// Recipe is how the code of a run is prepared; nil where it runs as it was
// written and nothing is added to it.
func Recipe(run mlaas.Run) *mlaas.Recipe {
	code := run.Spec.Code
	if code.Mode == "" || code.Mode == "plain" {
		return nil
	}
	r := &mlaas.Recipe{Version: mlaas.RecipeVersion, Mode: code.Mode, Entry: entry(run), Hooks: code.Hooked(), Locals: code.Locals}
	switch code.Mode {
	case "annotation":
		r.Marks = mlaas.MarksVersion
	case "guiding":
		r.Files, _ = template.Main(run.Spec.Environment.Framework) // Check has said where there is none
	}
	r.Distribute = distribute(run)
	return r
}

// entry is the file that the run starts, where that can be seen: the first
// Python file of the command, or the entry of the version.
func entry(run mlaas.Run) string {
	command := run.Spec.Execution.Command
	if run.Spec.Code.Mode == "guiding" {
		return template.Entry
	}
	if len(command) == 0 {
		return run.Version.Entry
	}
	for _, word := range command {
		if strings.HasSuffix(word, ".py") && !strings.HasPrefix(word, "/") {
			return word
		}
	}
	return ""
}

// command is what is started, without the parameters. In guiding mode it is the
// main program of the engine, with the arguments that the user's own would get.
func command(run mlaas.Run) []string {
	c := slices.Clone(run.Spec.Execution.Command)
	if len(c) > 0 && run.Spec.Code.Mode == "guiding" {
		file := slices.IndexFunc(c, func(word string) bool { return strings.HasSuffix(word, ".py") })
		return append([]string{"python", template.Entry}, c[file+1:]...)
	}
	if len(c) == 0 {
		return []string{"python", entry(run)}
	}
	return c
}

// tell are the variables by which the part of us inside the program knows what
// it is to do.
func tell(v map[string]string, r *mlaas.Recipe) {
	if r == nil {
		return
	}
	v["MLAAS_DEBUG"] = "1"
	if r.Hooks {
		v["MLAAS_HOOKS"] = "1"
	}
	if r.Locals {
		v["MLAAS_LOCALS"] = "1"
	}
}

// Launch is what the replicas of one attempt are told. A variable that the
// user set, or fills with a secret, is left as the user wants it.
func Launch(in Input) (mlaas.Launch, error) {
	if err := Check(in.Run); err != nil {
		return mlaas.Launch{}, err
	}
	spec := in.Run.Spec
	replicas := slices.Clone(in.Replicas)
	slices.SortFunc(replicas, func(a, b mlaas.Replica) int {
		if c := slices.Index(mlaas.RoleOrder, a.Role) - slices.Index(mlaas.RoleOrder, b.Role); c != 0 {
			return c
		}
		return a.Index - b.Index
	})
	l := mlaas.Launch{
		Tenant:      in.Run.Tenant,
		Run:         in.Run.ID,
		Epoch:       in.Attempt.Epoch,
		Bundle:      in.Run.Version.Bundle,
		Recipe:      Recipe(in.Run),
		Environment: spec.Environment,
		Data:        in.Data,
		Resume:      in.Attempt.Resume,
		ResumeStep:  in.Attempt.Step,
		Replicas:    map[string]*mlaas.Program{},
		Grace:       Grace(spec),
		Timeout:     spec.Execution.Timeout,
	}
	if l.Environment.Lock == "" {
		l.Environment.Lock = in.Lock
	}
	if l.Data == nil {
		l.Data = []mlaas.DataTree{}
	}
	for _, r := range replicas {
		if len(r.Ports) < 2 || r.Address == "" {
			return mlaas.Launch{}, fmt.Errorf("replica %s of run %s has no address with two ports: %w", r.Fence.Replica, r.Run, mlaas.ErrConflict)
		}
	}
	recipe := l.Recipe // a kernel has the files as they were written, and the hooks
	if in.Run.Kernel != nil {
		l.Recipe, l.Timeout = nil, 0
	}
	flags, parameters := parameters(spec.Execution.Parameters)
	for i, r := range replicas {
		p := &mlaas.Program{Variables: maps.Clone(parameters), Kernel: in.Run.Kernel}
		if p.Command = []string{}; p.Kernel == nil {
			p.Command = append(command(in.Run), flags...)
		}
		place(p.Variables, replicas, i)
		threads(p.Variables, spec, replicas, i)
		tell(p.Variables, recipe)
		if l.Recipe != nil {
			spread(p.Variables, in, replicas, i)
		}
		for name := range spec.Environment.Variables {
			delete(p.Variables, name)
		}
		for _, s := range spec.Environment.Secrets {
			delete(p.Variables, s.Variable)
		}
		l.Replicas[r.Fence.Replica] = p
	}
	return l, nil
}

// parameters are how a program hears them: as --name value, in the order of
// their names, and as MLAAS_PARAM_NAME.
func parameters(given map[string]any) (flags []string, variables map[string]string) {
	variables = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		text, ok := given[name].(string)
		if !ok {
			data, err := json.Marshal(given[name])
			if err != nil {
				data = fmt.Append(nil, given[name]) // an infinity set by hand in Go: JSON never carries one
			}
			text = string(data)
		}
		flags = append(flags, "--"+name, text)
		variables["MLAAS_PARAM_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = text
	}
	return flags, variables
}

// place tells replica i where it stands among its peers, in the words of each
// framework. Each replica has its machine, and the GPUs that it sees, to
// itself: its local rank is 0.
func place(v map[string]string, replicas []mlaas.Replica, i int) {
	me := replicas[i]
	var ranked []mlaas.Replica // chief, then workers
	rank := -1
	for _, r := range replicas {
		if r.Role != mlaas.Chief && r.Role != mlaas.Worker {
			continue
		}
		if r.Fence.Replica == me.Fence.Replica {
			rank = len(ranked)
		}
		ranked = append(ranked, r)
	}
	size := strconv.Itoa(len(ranked))
	var first mlaas.Replica
	if len(ranked) > 0 {
		first = ranked[0]
		v["MASTER_ADDR"] = first.Address
		v["MASTER_PORT"] = strconv.Itoa(first.Ports[1])
		v["WORLD_SIZE"] = size
	}
	if rank >= 0 {
		v["RANK"] = strconv.Itoa(rank)
		v["LOCAL_RANK"] = "0"
		v["LOCAL_WORLD_SIZE"] = "1"
	}
	if len(replicas) == 1 {
		return // alone: the program runs as it would by hand
	}
	v["TF_CONFIG"] = tfConfig(replicas, me)
	var hosts []string
	for _, r := range ranked {
		hosts = append(hosts, r.Address)
	}
	v["MLAAS_HOSTS"] = strings.Join(hosts, ",")
	if rank < 0 {
		return
	}
	v["JAX_COORDINATOR_ADDRESS"] = hostPort(first.Address, first.Ports[1])
	v["JAX_PROCESS_COUNT"] = size
	v["JAX_NUM_PROCESSES"] = size
	v["JAX_PROCESS_ID"] = strconv.Itoa(rank)
	v["OMPI_COMM_WORLD_RANK"] = strconv.Itoa(rank)
	v["OMPI_COMM_WORLD_SIZE"] = size
	v["OMPI_COMM_WORLD_LOCAL_RANK"] = "0"
	v["OMPI_COMM_WORLD_LOCAL_SIZE"] = "1"
	v["PMI_RANK"] = strconv.Itoa(rank)
	v["PMI_SIZE"] = size
}

// tfConfig is TF_CONFIG. TensorFlow does not count an evaluator to the cluster
// that trains, but wants an evaluator to find itself: it is listed for itself
// alone.
func tfConfig(replicas []mlaas.Replica, me mlaas.Replica) string {
	type task struct {
		Type  string `json:"type"`
		Index int    `json:"index"`
	}
	cluster := map[string][]string{}
	at := task{Type: me.Role}
	for _, r := range replicas {
		if r.Role == mlaas.Evaluator && me.Role != mlaas.Evaluator {
			continue
		}
		if r.Fence.Replica == me.Fence.Replica {
			at.Index = len(cluster[r.Role]) // dense, as TensorFlow counts
		}
		cluster[r.Role] = append(cluster[r.Role], hostPort(r.Address, r.Ports[0]))
	}
	text, err := json.Marshal(struct {
		Cluster map[string][]string `json:"cluster"`
		Task    task                `json:"task"`
	}{cluster, at})
	if err != nil {
		panic(err) // strings and a number always encode
	}
	return string(text)
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// threads keeps a program from starting a thread for each core of the machine
// when it may use only a few: with two OpenMP threads on one core's quota,
// PyTorch was measured to be 18 times slower than with one. A replica without
// a ceiling that has its machine to itself is left as it would be by hand.
func threads(v map[string]string, spec mlaas.JobSpec, replicas []mlaas.Replica, i int) {
	role := spec.Roles[replicas[i].Role]
	if role == nil {
		return
	}
	share := role.Ceiling().CPU
	if share == 0 {
		neighbours := 0
		for _, r := range replicas {
			if r.Node == replicas[i].Node && r.Cluster == replicas[i].Cluster {
				neighbours++
			}
		}
		if neighbours < 2 {
			return
		}
		share = role.Need().CPU
	}
	n := int(max(1, math.Round(float64(share)/1000)))
	for _, name := range []string{
		"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
	} {
		v[name] = strconv.Itoa(n)
	}
	if n == 1 {
		v["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
	}
}
