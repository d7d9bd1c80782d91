package imports

import (
	"slices"
	"testing"
	"testing/fstest"
)

func TestGuess(t *testing.T) {
	tests := []struct {
		name      string
		files     map[string]string
		framework string
		reason    string
		add       []string
		unknown   []string
	}{
		{"nothing", map[string]string{"main.py": "import os\nprint(1)"}, "python", "it imports none of the frameworks that mlaas knows", nil, nil},
		{"tensorflow with what it brings", map[string]string{"main.py": "import numpy as np\nimport tensorflow as tf\nfrom keras import layers"},
			"tensorflow", "main.py:2 imports tensorflow", nil, nil},
		{"keras alone", map[string]string{"main.py": "from keras import layers"}, "keras", "main.py:1 imports keras", nil, nil},
		{"torch wins over sklearn", map[string]string{"main.py": "import sklearn.svm\nimport torch.nn as nn"}, "pytorch", "main.py:2 imports torch", []string{"scikit-learn"}, nil},
		{"by a file of its own", map[string]string{"main.py": "from lib import net", "lib/__init__.py": "", "lib/net.py": "import jax"}, "jax", "lib/net.py:1 imports jax", nil, nil},
		{"relative", map[string]string{"main.py": "import a.b", "a/b.py": "from . import c\nfrom ..d import e", "a/c.py": "import xgboost", "d.py": "import pandas"},
			"xgboost", "a/c.py:1 imports xgboost", []string{"pandas"}, nil},
		{"texts and comments", map[string]string{"main.py": "'''\nimport torch\n'''\n# import jax\ns = 'x\\'y'; t = \"import keras\"\nimport sklearn"},
			"scikit-learn", "main.py:6 imports sklearn", nil, nil},
		{"tries and brackets", map[string]string{"main.py": "try: import torch\nexcept ImportError: pass\nfrom os import (path,\n  sep)\nimport \\\n  pandas"},
			"pytorch", "main.py:1 imports torch", []string{"pandas"}, nil},
		{"unknown is not guessed", map[string]string{"main.py": "import mlaas, acme.tools"}, "python", "it imports none of the frameworks that mlaas knows", nil, []string{"main.py:1 imports acme"}},
		{"a loop", map[string]string{"main.py": "import a", "a.py": "import main, torch"}, "pytorch", "a.py:1 imports torch", nil, nil},
		{"an open text", map[string]string{"main.py": "s = 'never closed\nimport torch"}, "pytorch", "main.py:2 imports torch", nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code := fstest.MapFS{}
			for p, text := range tt.files {
				code[p] = &fstest.MapFile{Data: []byte(text)}
			}
			found, _ := Of(code, "main.py")
			framework, add, unknown := Guess(found)
			if framework.Value != tt.framework || framework.Reason != tt.reason {
				t.Errorf("guessed %s because %s, want %s because %s", framework.Value, framework.Reason, tt.framework, tt.reason)
			}
			var added, named []string
			for _, a := range add {
				added = append(added, a.Value)
			}
			for _, u := range unknown {
				named = append(named, u.String())
			}
			if !slices.Equal(added, tt.add) {
				t.Errorf("adds %q, want %q", added, tt.add)
			}
			if !slices.Equal(named, tt.unknown) {
				t.Errorf("does not know %q, want %q", named, tt.unknown)
			}
		})
	}
}

func FuzzImports(f *testing.F) {
	f.Add("import a\nfrom b import (c, d)\n")
	f.Add("'''\n\\'''")
	f.Add("from . import x\\\n")
	f.Fuzz(func(t *testing.T, text string) {
		code := fstest.MapFS{"main.py": {Data: []byte(text)}}
		Of(code, "main.py") // must end, without a panic
	})
}
