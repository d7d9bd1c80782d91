// Package imports reads what a Python program imports, and which framework and
// packages that means. It is pure: texts go in, and nothing of them is run.
package imports

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// A Module is one that a program imports, and where it first asks for it.
type Module struct {
	Name string // its first part: "torch" of "torch.nn"
	File string
	Line int
}

func (i Module) String() string { return fmt.Sprintf("%s:%d imports %s", i.File, i.Line, i.Name) }

// Of reads the program that begins at entry, and every file of code that
// it imports from beside itself, and lists what they import from elsewhere,
// in the order of reading. files are the program's own files.
func Of(code fs.FS, entry string) (elsewhere []Module, files []string) {
	seen := map[string]bool{}
	known := map[string]bool{}
	todo := []string{entry}
	for len(todo) > 0 {
		file := todo[0]
		todo = todo[1:]
		if seen[file] {
			continue
		}
		seen[file] = true
		text, err := fs.ReadFile(code, file)
		if err != nil {
			continue
		}
		files = append(files, file)
		for _, i := range importsOf(string(text)) {
			own := ownFiles(code, path.Dir(entry), path.Dir(file), i)
			todo = append(todo, own...)
			first, _, _ := strings.Cut(i.module, ".")
			if len(own) == 0 && first != "" && !known[first] {
				known[first] = true
				elsewhere = append(elsewhere, Module{first, file, i.line})
			}
		}
	}
	slices.Sort(files)
	return elsewhere, files
}

// ownFiles are the files beside the program that an import reads: a module, a
// package with the packages around it, and submodules named after "import".
func ownFiles(code fs.FS, root, here string, i importLine) (files []string) {
	base, module := root, i.module
	if dots := len(module) - len(strings.TrimLeft(module, ".")); dots > 0 {
		base, module = here, module[dots:]
		for range dots - 1 {
			base = path.Dir(base)
		}
	}
	is := func(p string) bool {
		info, err := fs.Stat(code, p)
		return err == nil && info.Mode().IsRegular()
	}
	at := base
	var parts []string
	if module != "" {
		parts = strings.Split(module, ".")
	}
	for n, part := range parts {
		at = path.Join(at, part)
		if n == len(parts)-1 && is(at+".py") {
			return append(files, at+".py")
		}
		if is(path.Join(at, "__init__.py")) {
			files = append(files, path.Join(at, "__init__.py"))
		}
	}
	for _, name := range i.names {
		if p := path.Join(at, name+".py"); is(p) {
			files = append(files, p)
		} else if p := path.Join(at, name, "__init__.py"); is(p) {
			files = append(files, p)
		}
	}
	return files
}

type importLine struct {
	module string // "torch.nn", "..util"
	names  []string
	line   int
}

var (
	importRule = regexp.MustCompile(`^\s*import\s+(.+)$`)
	fromRule   = regexp.MustCompile(`^\s*from\s+(\.*[\w.]*)\s+import\s+(.+)$`)
	wordRule   = regexp.MustCompile(`^\w[\w.]*`)
)

// importsOf lists the import statements of a Python text. It knows strings and
// comments, so that "import torch" in a docstring is none.
func importsOf(text string) (found []importLine) {
	lines := strings.Split(strip(text), "\n")
	for n := 0; n < len(lines); n++ {
		begin := n
		line := lines[n]
		for n+1 < len(lines) && (strings.HasSuffix(line, `\`) || strings.Count(line, "(") > strings.Count(line, ")") && fromRule.MatchString(line)) {
			n++
			line = strings.TrimSuffix(line, `\`) + " " + lines[n]
		}
		for statement := range strings.SplitSeq(line, ";") {
			if _, after, ok := strings.Cut(statement, ":"); ok && !importRule.MatchString(statement) {
				statement = after // "try: import torch"
			}
			if m := fromRule.FindStringSubmatch(statement); m != nil {
				found = append(found, importLine{m[1], words(m[2]), begin + 1})
			} else if m := importRule.FindStringSubmatch(statement); m != nil {
				for _, module := range words(m[1]) {
					found = append(found, importLine{module, nil, begin + 1})
				}
			}
		}
	}
	return found
}

func words(list string) (out []string) {
	for part := range strings.SplitSeq(strings.Trim(strings.TrimSpace(list), "()"), ",") {
		if w := wordRule.FindString(strings.TrimSpace(part)); w != "" {
			out = append(out, w)
		}
	}
	return out
}

// strip blanks the strings and comments of a Python text and keeps its lines.
func strip(text string) string {
	var b strings.Builder
	quote := ""
	for i := 0; i < len(text); {
		switch rest := text[i:]; {
		case quote != "" && strings.HasPrefix(rest, `\`) && len(rest) > 1:
			if rest[1] == '\n' {
				b.WriteByte('\n')
			}
			i += 2
		case quote != "" && strings.HasPrefix(rest, quote):
			i += len(quote)
			quote = ""
			b.WriteByte('"')
		case quote != "" && rest[0] == '\n':
			if len(quote) == 1 {
				quote = "" // was never closed: the text does not parse
			}
			b.WriteByte('\n')
			i++
		case quote != "":
			i++
		case strings.HasPrefix(rest, `"""`), strings.HasPrefix(rest, `'''`):
			quote = rest[:3]
			b.WriteByte('"')
			i += 3
		case rest[0] == '"', rest[0] == '\'':
			quote = rest[:1]
			b.WriteByte('"')
			i++
		case rest[0] == '#':
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			i += end
		default:
			b.WriteByte(rest[0])
			i++
		}
	}
	return b.String()
}

// A Choice is a value that nobody stated, and the reason for it.
type Choice struct {
	Value  string
	Reason string
}

// frameworks names, for each module that decides, the framework of the
// catalogue. The first in the list that is imported wins: what comes later
// also comes with it, or is small enough to be a package beside it.
var frameworks = []struct{ module, framework string }{
	{"tensorflow", "tensorflow"},
	{"torch", "pytorch"},
	{"jax", "jax"},
	{"keras", "keras"},
	{"xgboost", "xgboost"},
	{"lightgbm", "lightgbm"},
	{"sklearn", "scikit-learn"},
}

// bring lists the modules that a framework's environment has besides its own.
var bring = map[string][]string{
	"tensorflow":   {"keras", "numpy", "h5py"},
	"pytorch":      {"numpy"},
	"jax":          {"numpy", "scipy", "jaxlib"},
	"keras":        {"numpy", "h5py"},
	"xgboost":      {"numpy", "scipy"},
	"lightgbm":     {"numpy", "scipy"},
	"scikit-learn": {"numpy", "scipy", "joblib"},
}

// packages names what to install for modules that people import much and whose
// package we are sure of. Others are not guessed: a wrong guess installs a
// stranger's code.
var packages = map[string]string{
	"numpy": "numpy", "scipy": "scipy", "pandas": "pandas", "matplotlib": "matplotlib", "sklearn": "scikit-learn",
	"xgboost": "xgboost-cpu", "lightgbm": "lightgbm", "PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml",
	"requests": "requests", "tqdm": "tqdm", "seaborn": "seaborn", "h5py": "h5py", "joblib": "joblib", "polars": "polars",
	"pyarrow": "pyarrow", "torchvision": "torchvision", "lightning": "lightning", "transformers": "transformers",
	"datasets": "datasets", "optax": "optax", "flax": "flax", "mlflow": "mlflow-skinny", "tensorboard": "tensorboard",
	"jax": "jax", "keras": "keras", "torch": "torch", "tensorflow": "tensorflow-cpu", "einops": "einops",
}

// Guess chooses a framework, and the packages beside it, for what a program
// imports. Unknown modules are named, so that the user hears of them before
// the program does.
func Guess(found []Module) (framework Choice, add []Choice, unknown []Module) {
	at := func(module string) *Module {
		if i := slices.IndexFunc(found, func(f Module) bool { return f.Name == module }); i >= 0 {
			return &found[i]
		}
		return nil
	}
	framework = Choice{"python", "it imports none of the frameworks that mlaas knows"}
	covered := []string{"mlaas", "__future__"}
	for _, f := range frameworks {
		if i := at(f.module); i != nil {
			framework = Choice{f.framework, i.String()}
			covered = append(append(covered, f.module), bring[f.framework]...)
			break
		}
	}
	for _, i := range found {
		switch pkg := packages[i.Name]; {
		case slices.Contains(covered, i.Name) || slices.Contains(standard, i.Name):
		case pkg != "":
			add = append(add, Choice{pkg, i.String()})
		default:
			unknown = append(unknown, i)
		}
	}
	return framework, add, unknown
}

// standard lists the modules that come with Python itself.
var standard = strings.Fields(`
abc aifc argparse array ast asynchat asyncio asyncore atexit audioop base64 bdb binascii bisect builtins bz2
calendar cgi cgitb chunk cmath cmd code codecs codeop collections colorsys compileall compression concurrent
configparser contextlib contextvars copy copyreg cProfile crypt csv ctypes curses dataclasses datetime dbm decimal
difflib dis distutils doctest email encodings ensurepip enum errno faulthandler fcntl filecmp fileinput fnmatch
fractions ftplib functools gc genericpath getopt getpass gettext glob graphlib grp gzip hashlib heapq hmac html http
idlelib imaplib imghdr imp importlib inspect io ipaddress itertools json keyword lib2to3 linecache locale logging
lzma mailbox mailcap marshal math mimetypes mmap modulefinder msvcrt multiprocessing netrc nntplib ntpath numbers
opcode operator optparse os ossaudiodev pathlib pdb pickle pickletools pipes pkgutil platform plistlib poplib posix
posixpath pprint profile pstats pty pwd py_compile pyclbr pydoc queue quopri random re readline reprlib resource
rlcompleter runpy sched secrets select selectors shelve shlex shutil signal site smtpd smtplib sndhdr socket
socketserver spwd sqlite3 sre_compile sre_constants sre_parse ssl stat statistics string stringprep struct
subprocess sunau symtable sys sysconfig syslog tabnanny tarfile telnetlib tempfile termios test textwrap this
threading time timeit tkinter token tokenize tomllib trace traceback tracemalloc tty turtle turtledemo types typing
unicodedata unittest urllib uu uuid venv warnings wave weakref webbrowser winreg winsound wsgiref xdrlib xml xmlrpc
zipapp zipfile zipimport zlib zoneinfo`)
