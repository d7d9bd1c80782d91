// Command prepare measures how long marks take to become calls: CPU seconds of
// the Python that reads 25,000 lines with 5,000 marks, as a supervisor runs it.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"mlaas.dev/mlaas"
	"mlaas.dev/mlaas/bench/rig"
)

const (
	lines = 25_000
	marks = 5_000
	limit = 1.0 // seconds
)

func main() {
	library := flag.String("library", "python", "the folder that holds the Python package mlaas")
	rounds := flag.Int("rounds", 5, "of which the median is taken")
	flag.Parse()
	if err := run(*library, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(library string, rounds int) error {
	dir, err := os.MkdirTemp("", "prepare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	text := program()
	if err := os.WriteFile(filepath.Join(dir, "main.py"), []byte(text), 0o644); err != nil {
		return err
	}
	ask, err := json.Marshal(map[string]any{"root": dir, "recipe": mlaas.Recipe{Version: mlaas.RecipeVersion, Mode: "annotation", Marks: mlaas.MarksVersion}})
	if err != nil {
		return err
	}
	var seconds []float64
	for range rounds {
		c := exec.CommandContext(context.Background(), "python3", "-I", "-S", "-B", filepath.Join(library, "mlaas", "_prepare.py"))
		c.Stdin, c.Stderr = strings.NewReader(string(ask)), os.Stderr
		out, err := c.Output()
		if err != nil {
			return err
		}
		var answer struct {
			Files []struct{ Marks []mlaas.Mark }
		}
		if err := json.Unmarshal(out, &answer); err != nil {
			return err
		}
		if len(answer.Files) != 1 || len(answer.Files[0].Marks) != marks {
			return fmt.Errorf("%d files were prepared, want one with %d marks", len(answer.Files), marks)
		}
		seconds = append(seconds, (c.ProcessState.UserTime() + c.ProcessState.SystemTime()).Seconds())
	}
	rig.Row("prepare 25,000 lines with 5,000 marks", rig.Median(seconds), limit, "s", true, "CPU, start of Python included")
	return nil
}

// program is what people write, more or less: functions with loops, strings and
// brackets, and a mark every five lines.
func program() string {
	var b strings.Builder
	n := 0
	for i := 0; n < lines; i++ {
		body := []string{
			fmt.Sprintf("def step_%d(model, session, data, loss=0.0):", i),
			`    """One of many: #@define: model is no mark here."""`,
			"    for i in range(10):",
			"        loss = model(data[i],",
			"                     training=True) + 0.5 * i",
			"        #@step: loss",
			"        if i % 3 == 0 and {'a': [1, 2, (3, 4)], 'b': 'text # not a comment'}['a'][0]:",
			"            loss = max(loss, len(str(session)))",
			"    #@evaluate: loss",
			"    return loss",
		}
		for _, line := range body {
			b.WriteString(line + "\n")
		}
		n += len(body)
	}
	return b.String()
}
