package codeengine

import (
	"cmp"
	"encoding/json"
	"hash/fnv"
	"slices"

	"mlaas.dev/mlaas"
)

// distribute asks that the program train as one on all replicas of the run;
// nil where there is one, where the user wants them apart, and where what is
// started is not a Python program that can be looked into.
func distribute(run mlaas.Run) *mlaas.Distribute {
	want := string(cmp.Or(run.Spec.Code.Distribute, "auto"))
	d := &mlaas.Distribute{Want: want, Entry: entry(run)}
	if d.Entry == "" {
		if i := slices.Index(run.Spec.Execution.Command, "-m"); i >= 0 && i+1 < len(run.Spec.Execution.Command) {
			d.Entry = "-m " + run.Spec.Execution.Command[i+1]
		}
	}
	d.Replicas, d.Servers = run.Spec.Trainers()
	if !run.Spec.Spreads() || d.Entry == "" {
		return nil
	}
	return d
}

// spread tells replica i, in MLAAS_SPREAD, with whom it trains as one. An
// evaluator trains with nobody.
func spread(v map[string]string, in Input, replicas []mlaas.Replica, i int) {
	me := struct {
		Distribute string   `json:"distribute"`
		Entry      string   `json:"entry"`
		Rank       int      `json:"rank"`  // -1: a parameter server
		Peers      []string `json:"peers"` // chief and workers, by rank
		Servers    int      `json:"servers,omitempty"`
		Key        string   `json:"key"`
		Seed       uint32   `json:"seed"`
	}{Distribute: "off", Rank: -1, Key: in.Key}
	if d := distribute(in.Run); d != nil {
		me.Distribute, me.Entry = d.Want, d.Entry
	}
	for k, r := range replicas {
		switch r.Role {
		case mlaas.Chief, mlaas.Worker:
			if k == i {
				me.Rank = len(me.Peers)
			}
			// The second port: TensorFlow's servers have the first.
			me.Peers = append(me.Peers, hostPort(r.Address, r.Ports[1]))
		case mlaas.PS:
			me.Servers++
		}
	}
	role := replicas[i].Role
	if role == mlaas.Evaluator || len(me.Peers) < 2 && me.Servers == 0 {
		return
	}
	h := fnv.New32a()
	h.Write([]byte(in.Run.ID))
	me.Seed = h.Sum32() >> 1 // each run its own; attempts of one repeat it
	text, err := json.Marshal(me)
	if err != nil {
		panic(err) // texts and numbers always encode
	}
	v["MLAAS_SPREAD"] = string(text)
}
