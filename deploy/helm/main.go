// Command helm prints the objects of the chart as Helm makes them, one JSON
// object a line, for what installs it without Helm:
//
//	go run . -name ml -namespace platform < values.yaml
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/yaml"
)

func main() {
	name := flag.String("name", "mlaas", "of the release")
	namespace := flag.String("namespace", "default", "where it is installed")
	flag.Parse()
	if err := show(*name, *namespace, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func show(name, namespace string, values io.Reader, out io.Writer) error {
	text, err := io.ReadAll(values)
	if err != nil {
		return err
	}
	all, err := render(name, namespace, text)
	if err != nil {
		return err
	}
	for _, object := range all {
		if err := json.NewEncoder(out).Encode(object); err != nil {
			return err
		}
	}
	return nil
}

// render makes the objects of a release, file by file in the order of their
// names. values are YAML.
func render(name, namespace string, values []byte) (all []map[string]any, err error) {
	c, err := loader.Load("mlaas")
	if err != nil {
		return nil, err
	}
	var given map[string]any
	if err := yaml.Unmarshal(values, &given); err != nil {
		return nil, fmt.Errorf("the values are no YAML: %w", err)
	}
	whole, err := chartutil.ToRenderValues(c, given, chartutil.ReleaseOptions{Name: name, Namespace: namespace, IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	texts, err := engine.Render(c, whole)
	if err != nil {
		return nil, err
	}
	for _, file := range slices.Sorted(maps.Keys(texts)) {
		if strings.HasSuffix(file, ".tpl") {
			continue
		}
		for part := range strings.SplitSeq(texts[file], "\n---") {
			if strings.TrimSpace(part) == "" {
				continue
			}
			var object map[string]any
			if err := yaml.UnmarshalStrict([]byte(part), &object); err != nil {
				return nil, fmt.Errorf("%s: %w\n%s", file, err, part)
			}
			all = append(all, object)
		}
	}
	return all, nil
}
