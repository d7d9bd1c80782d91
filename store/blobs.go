package store

import (
	"encoding/json"
	"fmt"

	"mlaas.dev/mlaas"
)

// Blobs says which bytes a record names: trees, whose files are named by them,
// and others. What no record names may be collected, and a backup has what
// some record names; so a new field that names bytes belongs here.
func Blobs(row Row) (trees, others []mlaas.Digest, err error) {
	add := func(to *[]mlaas.Digest, ds ...mlaas.Digest) {
		for _, d := range ds {
			if d != "" {
				*to = append(*to, d)
			}
		}
	}
	switch row.Key.Kind {
	case "version":
		var v mlaas.Version
		err = json.Unmarshal(row.Data, &v)
		add(&trees, v.Bundle)
	case "draft":
		var v mlaas.Draft
		err = json.Unmarshal(row.Data, &v)
		for _, f := range v.Files {
			add(&others, f.Digest)
		}
	case "run": // its version may be gone with an edit of the future; the run keeps it
		var v mlaas.Run
		err = json.Unmarshal(row.Data, &v)
		add(&trees, v.Version.Bundle)
		add(&others, v.Spec.Environment.Lock)
	case "execution":
		var v mlaas.KernelExecution
		err = json.Unmarshal(row.Data, &v)
		add(&trees, v.Bundle)
	case "dataset":
		var v mlaas.Dataset
		err = json.Unmarshal(row.Data, &v)
		add(&trees, v.Tree)
	case "checkpoint":
		var v mlaas.Checkpoint
		err = json.Unmarshal(row.Data, &v)
		add(&trees, v.Tree)
	case "evaluation":
		var v mlaas.Evaluated
		err = json.Unmarshal(row.Data, &v)
		add(&others, v.Content)
	case "replica":
		var v mlaas.Replica
		err = json.Unmarshal(row.Data, &v)
		add(&trees, v.Outputs)
	case "launch":
		var v mlaas.Launch
		err = json.Unmarshal(row.Data, &v)
		add(&trees, v.Bundle, v.Resume)
		add(&others, v.Environment.Lock)
		for _, d := range v.Data {
			add(&trees, d.Tree)
		}
	case "lock":
		var v mlaas.Locked
		err = json.Unmarshal(row.Data, &v)
		add(&others, v.Lock)
		add(&others, v.Previous...)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", row.Key, err)
	}
	return trees, others, err
}

// NamesBlobs are the kinds of records for which Blobs may say something.
func NamesBlobs() []string {
	return []string{"version", "draft", "run", "dataset", "checkpoint", "replica", "launch", "lock", "evaluation"}
}
