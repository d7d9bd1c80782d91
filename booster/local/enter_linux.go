package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"mlaas.dev/mlaas/supervisor"
)

// canSandbox reports whether namespaces can be made, and else why not.
func canSandbox() (bool, string) {
	if os.Geteuid() != 0 {
		return false, "Replicas run as the user of the platform and see what it sees: start it as root to confine them."
	}
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: this thread is not to be used again
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		got <- err
	}()
	if err := <-got; err != nil {
		return false, fmt.Sprintf("Replicas run as root and see the whole machine: namespaces are not permitted here (%v).", err)
	}
	return true, ""
}

// Enter is `mlaas enter`: it starts a program where its replica's enter.json
// says, and does not return. args are FILE --see=PATH ... -- COMMAND ..., or
// --join FILE -- COMMAND ... to run something beside a program.
//
// It finds the program's variables in its own environment, each with a "_"
// before its name, so that none of them means anything to us. What goes wrong
// is written to descriptor 3, which is closed once the program runs.
func Enter(args []string) {
	wrong := os.NewFile(3, "errors")
	code, err := enter(args, wrong)
	if err != nil {
		if _, e := fmt.Fprintln(wrong, err); e != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		code = exitEnter
	}
	os.Exit(code)
}

// How enter calls itself: the first process of the new namespaces.
const stageInit = "--init"

func enter(args []string, wrong *os.File) (int, error) {
	mode := ""
	if len(args) > 0 && (args[0] == stageInit || args[0] == "--join") {
		mode, args = args[0], args[1:]
	}
	cut := slices.Index(args, "--")
	if cut < 1 || cut == len(args)-1 {
		return 0, errors.New("usage: mlaas enter FILE [--see=PATH ...] -- COMMAND ...")
	}
	command, see := args[cut+1:], []string(nil)
	for _, a := range args[1:cut] {
		path, ok := strings.CutPrefix(a, "--see=")
		if !ok {
			return 0, fmt.Errorf("unknown option %s", a)
		}
		see = append(see, path)
	}
	data, err := os.ReadFile(args[0])
	if err != nil {
		return 0, err
	}
	var in entrance
	if err := json.Unmarshal(data, &in); err != nil {
		return 0, err
	}
	runtime.LockOSThread() // what follows is of a thread, and ends with it
	switch {
	case mode == stageInit:
		return in.init(see, command, wrong)
	case mode == "--join":
		return in.join(args, command, wrong)
	}
	if err := in.groups(); err != nil {
		return 0, err
	}
	if !in.Sandbox {
		return 0, in.exec(command)
	}
	return in.parent(args, wrong, initFile)
}

// groups joins the control groups, so that all that follows is counted there.
func (in *entrance) groups() error {
	for _, dir := range in.Groups {
		if err := write(dir, "cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
			return fmt.Errorf("the control group could not be joined: %w", err)
		}
	}
	return nil
}

// exec becomes the program.
func (in *entrance) exec(command []string) error {
	env := variables()
	path, err := find(command[0], env)
	if err != nil {
		return err
	}
	unix.CloseOnExec(3)
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	return syscall.Exec(path, command, env)
}

// variables are those of the program.
func variables() (env []string) {
	for _, v := range os.Environ() {
		if rest, ok := strings.CutPrefix(v, "_"); ok && strings.Contains(rest, "=") {
			env = append(env, rest)
		}
	}
	return env
}

// find looks a command up as a shell does.
func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, v := range env {
		list, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			file := filepath.Join(dir, name)
			if i, err := os.Stat(file); err == nil && i.Mode().IsRegular() && i.Mode()&0o111 != 0 {
				return file, nil
			}
		}
	}
	return "", fmt.Errorf("there is no command %q", name)
}

// parent makes the namespaces, waits for what runs in them and ends as it did:
// by the same exit code, or by the same signal.
func (in *entrance) parent(args []string, wrong *os.File, record string) (int, error) {
	spare(-998)
	status, told, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	argv := append([]string{os.Args[0], "enter", stageInit}, args...)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	apart := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC)
	if in.Offline {
		apart |= unix.CLONE_NEWNET
	}
	p, err := os.StartProcess("/proc/self/exe", argv, &os.ProcAttr{
		Dir: in.Folder, Env: os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, wrong, told},
		Sys: &syscall.SysProcAttr{
			Cloneflags: apart,
			Setsid:     true, Pdeathsig: syscall.SIGKILL,
		},
	})
	if err != nil {
		return 0, fmt.Errorf("the sandbox could not be made: %w", err)
	}
	told.Close()
	if who, err := supervisor.Find(p.Pid); err == nil && record != "" {
		if err := supervisor.WriteFile(filepath.Join(in.Folder, record), who); err != nil {
			fmt.Fprintln(os.Stderr, "enter:", err)
		}
	}
	wrong.Close() // who waits for the program to begin waits for the sandbox alone
	go func() {
		for s := range signals {
			p.Signal(s)
		}
	}()
	text, _ := io.ReadAll(status)
	state, err := p.Wait()
	if err != nil {
		return 0, err
	}
	w := state.Sys().(syscall.WaitStatus)
	if n, err := strconv.Atoi(string(text)); err == nil { // of the program itself
		w = syscall.WaitStatus(n)
	}
	if w.Signaled() {
		signal.Reset()
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		die(w.Signal())
		return 128 + int(w.Signal()), nil
	}
	return w.ExitStatus(), nil
}

// die ends this process by a signal.
func die(s syscall.Signal) {
	// Past Go's own handlers, which would write a stack: the kernel's default.
	var byDefault [64]byte
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	unix.Tgkill(os.Getpid(), unix.Gettid(), s)
}

// terminal reports whether standard input is one: it then becomes that of the
// session, so that Ctrl+C and job control work as in any shell.
func terminal() bool {
	_, err := unix.IoctlGetTermios(0, unix.TCGETS)
	return err == nil
}

// forwarded are the signals that a program may be sent from outside.
var forwarded = []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// spare says how readily the kernel may end us when memory is short: the
// program first.
func spare(score int) {
	os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0)
}

// init is the first process of the sandbox: it makes the program's view of the
// machine, starts the program as its user, and takes in what that leaves
// behind. When it ends, the kernel ends everything in the sandbox.
func (in *entrance) init(see, command []string, wrong *os.File) (int, error) {
	status := os.NewFile(4, "status")
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	if err := in.view(see); err != nil {
		return 0, fmt.Errorf("the sandbox could not be made: %w", err)
	}
	env := variables()
	path, err := find(command[0], env)
	if err != nil {
		return 0, err
	}
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	files := unix.Rlimit{Cur: 65536, Max: 65536}
	unix.Setrlimit(unix.RLIMIT_NOFILE, &files)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(path, command, &syscall.ProcAttr{
		Dir: filepath.Join(in.Folder, supervisor.CodeDir), Env: env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{
			Setsid: true, Pdeathsig: syscall.SIGKILL, Setctty: terminal(),
			Credential: &syscall.Credential{Uid: uint32(in.User), Gid: uint32(in.User)},
		},
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", command[0], err)
	}
	os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("0"), 0)
	wrong.Close()
	for _, fd := range []int{0, 1, 2} { // the program's alone: their end is its end
		if null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
			unix.Dup3(null, fd, 0)
			unix.Close(null)
		}
	}
	go func() {
		for s := range signals {
			syscall.Kill(-pid, s.(syscall.Signal))
		}
	}()
	for {
		var w syscall.WaitStatus
		got, err := syscall.Wait4(-1, &w, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, err
		case got == pid:
			fmt.Fprint(status, int(w))
			return 0, nil
		}
	}
}

// system is what every program may read, where it is there.
var system = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store", "/gnu/store"}

// etc is what programs look up: names, certificates, time.
var etc = []string{
	"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "resolv.conf", "hosts", "host.conf", "hostname",
	"localtime", "timezone", "ssl", "ca-certificates", "pki", "alternatives", "protocols", "services", "mime.types",
	"gai.conf", "fonts", "OpenCL", "vulkan", "python3", "python3.11", "magic", "machine-id",
}

// view hangs up the root that the program sees: the system and its environment
// to read, its own folders, and nothing else of the machine.
func (in *entrance) view(see []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := filepath.Join(in.Folder, rootDir)
	if err := unix.Mount("mlaas", root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=16m"); err != nil {
		return err
	}
	v := &view{root: root}
	for _, path := range system {
		v.system(path)
	}
	v.hide(in.Hide)
	v.dir("/etc", 0o755)
	for _, name := range etc {
		v.bind("/etc/"+name, readOnly|optional)
	}
	user := fmt.Sprint(in.User)
	v.file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nmlaas:x:"+user+":"+user+":mlaas:"+filepath.Join(in.Folder, supervisor.HomeDir)+":/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
	v.file("/etc/group", "root:x:0:\nmlaas:x:"+user+":\nnogroup:x:65534:\n")
	v.dir("/proc", 0o755)
	v.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	v.dir("/sys", 0o755)
	v.bind("/sys", readOnly|optional|alone)
	v.devices(in.Devices)
	v.dir("/run", 0o755)
	v.dir("/var", 0o755)
	v.bind("/run/systemd/resolve", readOnly|optional) // resolv.conf may lead there
	v.dir("/tmp", 0o1777)
	v.bindTo(filepath.Join(in.Folder, supervisor.TempDir), "/tmp", 0)
	v.link("/tmp", "/var/tmp")
	for _, path := range see {
		v.bind(path, readOnly)
	}
	for _, name := range supervisor.ReadOnly {
		v.bind(filepath.Join(in.Folder, name), readOnly)
	}
	for _, name := range supervisor.Writable {
		v.bind(filepath.Join(in.Folder, name), 0)
	}
	if v.err != nil {
		return v.err
	}
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}

// A view is a root in the making. It remembers the first thing that went
// wrong, and does nothing after it.
type view struct {
	root   string
	err    error
	seen   []string // bound for reading, with all below
	hidden string
}

// How something is bound.
const (
	readOnly = 1 << iota
	optional // where it is there
	alone    // without what is mounted below it
	device
)

func (v *view) at(path string) string { return filepath.Join(v.root, path) }

func (v *view) fail(what string, err error) {
	if v.err == nil && err != nil {
		v.err = fmt.Errorf("%s: %w", what, err)
	}
}

func (v *view) dir(path string, mode fs.FileMode) {
	if v.err != nil {
		return
	}
	at := v.at(path)
	if err := os.MkdirAll(at, 0o755); err != nil {
		v.fail(path, err)
		return
	}
	if mode != 0o755 {
		v.fail(path, unix.Chmod(at, uint32(mode)))
	}
}

func (v *view) file(path, text string) {
	if v.err == nil {
		v.fail(path, os.WriteFile(v.at(path), []byte(text), 0o644))
	}
}

func (v *view) link(to, path string) {
	if v.err == nil {
		v.fail(path, os.Symlink(to, v.at(path)))
	}
}

func (v *view) mount(what, path, kind string, flags uintptr, options string) {
	if v.err == nil {
		v.fail(path, unix.Mount(what, v.at(path), kind, flags, options))
	}
}

// system shows a folder of the system, or the link that stands for it.
func (v *view) system(path string) {
	if to, err := os.Readlink(path); err == nil {
		v.link(to, path)
		return
	}
	v.bind(path, readOnly|optional)
}

// hide puts an empty folder over one that may be inside the system's.
func (v *view) hide(path string) {
	if v.err != nil || path == "" {
		return
	}
	for _, s := range v.seen {
		if strings.HasPrefix(path, s+"/") {
			v.mount("mlaas", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m")
			v.hidden = path
			return
		}
	}
}

func (v *view) bind(path string, how int) { v.bindTo(path, path, how) }

// bindTo shows what is at from under the name to.
func (v *view) bindTo(from, to string, how int) {
	if v.err != nil {
		return
	}
	from = filepath.Clean(from)
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) && how&optional != 0 {
		return
	}
	if err != nil {
		v.fail(from, err)
		return
	}
	if how&readOnly != 0 && from == to {
		for _, s := range v.seen {
			inside := func(dir string) bool { return to == dir || strings.HasPrefix(to, dir+"/") }
			if inside(s) && (v.hidden == "" || !inside(v.hidden) || strings.HasPrefix(s, v.hidden)) {
				return
			}
		}
	}
	at := v.at(to)
	if info.IsDir() {
		err = os.MkdirAll(at, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(at, os.O_CREATE|os.O_WRONLY, 0o644); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		v.fail(to, err)
		return
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REC)
	if how&alone != 0 {
		flags = unix.MS_BIND
	}
	if err := unix.Mount(from, at, "", flags, ""); err != nil {
		v.fail(from, err)
		return
	}
	attr := uint64(unix.MOUNT_ATTR_NOSUID)
	old := uintptr(unix.MS_NOSUID)
	if how&device == 0 {
		attr |= unix.MOUNT_ATTR_NODEV
		old |= unix.MS_NODEV
	}
	if how&readOnly != 0 {
		attr |= unix.MOUNT_ATTR_RDONLY
		old |= unix.MS_RDONLY
	}
	err = unix.MountSetattr(-1, at, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: attr})
	if errors.Is(err, unix.ENOSYS) { // a kernel before 5.12: this mount alone
		err = unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|old, "")
	}
	v.fail(to, err)
	if how&readOnly != 0 && info.IsDir() && how&alone == 0 {
		v.seen = append(v.seen, to)
	}
}

// devices makes a /dev of what any program needs.
func (v *view) devices(more []string) {
	v.dir("/dev", 0o755)
	v.mount("dev", "/dev", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=64k")
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		v.bind("/dev/"+name, device|optional)
	}
	for _, path := range more {
		v.bind(path, device|optional)
	}
	v.dir("/dev/shm", 0o755)
	v.mount("shm", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	v.dir("/dev/pts", 0o755)
	v.mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
	v.link("pts/ptmx", "/dev/ptmx")
	v.link("/proc/self/fd", "/dev/fd")
	v.link("/proc/self/fd/0", "/dev/stdin")
	v.link("/proc/self/fd/1", "/dev/stdout")
	v.link("/proc/self/fd/2", "/dev/stderr")
}

// join runs a command beside the program: in its namespaces and groups, as its
// user. Where the program does not run yet, the command gets a sandbox of its
// own over the same folder.
func (in *entrance) join(args, command []string, wrong *os.File) (int, error) {
	p, err := readProcess(in.Folder, initFile)
	if err == nil {
		var w *processWatch
		if w, err = watchProcess(p, false); err == nil {
			defer w.Close()
		}
	}
	if err != nil {
		if err := in.groups(); err != nil {
			return 0, err
		}
		if !in.Sandbox {
			return 0, in.exec(command)
		}
		return in.parent(args, wrong, "")
	}
	if err := in.groups(); err != nil {
		return 0, err
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return 0, err
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS|unix.CLONE_NEWPID|unix.CLONE_NEWIPC); err != nil {
		return 0, fmt.Errorf("setns: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	env := variables()
	path, err := find(command[0], env)
	if err != nil {
		return 0, err
	}
	unix.CloseOnExec(3) // what the command leaves behind would hold it open
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP) // before it starts: what we ignore it would ignore
	pid, err := syscall.ForkExec(path, command, &syscall.ProcAttr{
		Dir: filepath.Join(in.Folder, supervisor.CodeDir), Env: env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{
			Setsid:     true, // no death with our own: from in there we cannot be seen
			Setctty:    terminal(),
			Credential: &syscall.Credential{Uid: uint32(in.User), Gid: uint32(in.User)},
		},
	})
	if err != nil {
		return 0, err
	}
	wrong.Close()
	go func() {
		<-signals
		syscall.Kill(-pid, syscall.SIGKILL)
	}()
	for {
		var w syscall.WaitStatus
		_, err := syscall.Wait4(pid, &w, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, err
		case w.Signaled():
			return 128 + int(w.Signal()), nil
		default:
			return w.ExitStatus(), nil
		}
	}
}
