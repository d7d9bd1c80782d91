//go:build linux

package supervisor

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mlaas.dev/mlaas"
)

// What a container is told by its variables. It is read in a process of its
// own, because that one hides itself from then on.
func TestReadContainer(t *testing.T) {
	if os.Getenv("TEST_CONTAINER") != "" {
		readContainer()
	}
	folder := filepath.Join(t.TempDir(), "replica")
	config, err := json.Marshal(Config{Fence: mlaas.Fence{Run: "run", Replica: "worker-0"}, Folder: folder, Fleeting: true})
	if err != nil {
		t.Fatal(err)
	}
	whole := []string{ConfigVariable + "=" + string(config), DoorVariable + "=http://door", TokenVariable + "=secret", AddressVariable + "=10.0.0.1", NodeVariable + "=n1"}
	run := func(env []string) (string, error) {
		c := exec.Command(os.Args[0], "-test.run=^TestReadContainer$")
		c.Env = append(slices.Clone(env), "TEST_CONTAINER=1", "PATH=/usr/bin:/bin")
		out, err := c.CombinedOutput()
		return string(out), err
	}
	out, err := run(whole)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got struct {
		Config
		Left []string
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got.Door != "http://door" || got.Token != "secret" || got.Address != "10.0.0.1" || got.Node != "n1" || got.Fence.Replica != "worker-0" || !got.Fleeting || got.Quiet == 0 || got.Spool == 0 {
		t.Errorf("it was told %+v", got.Config)
	}
	if len(got.Left) > 0 {
		t.Errorf("whoever it starts sees %v", got.Left)
	}
	for _, dir := range slices.Concat(Writable, ReadOnly) {
		if info, err := os.Stat(filepath.Join(folder, dir)); err != nil || !info.IsDir() {
			t.Errorf("folder %s: %v", dir, err)
		}
	}
	for i := range whole {
		without := slices.Delete(slices.Clone(whole), i, i+1)
		name, _, _ := strings.Cut(whole[i], "=")
		if out, err := run(without); err == nil || !strings.Contains(out, name) {
			t.Errorf("without %s it says %v, %s", name, err, out)
		}
	}
}

// readContainer is the container.
func readContainer() {
	c, err := ReadContainer()
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	told := struct {
		Config
		Left []string
	}{Config: c}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "MLAAS_") {
			told.Left = append(told.Left, v)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(told); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}
