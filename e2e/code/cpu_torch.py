"""Make PyTorch's public wheels, which are built for CUDA, run on a machine
without it: for tests alone.

    cpu_torch.py ENVIRONMENT

The public index has no CPU build, and the CUDA libraries that the wheels ask
for are several gigabytes. Here each of them is a library of a few lines whose
functions answer "no device", put beside PyTorch's own.
"""
import glob
import os
import re
import subprocess
import sys
import tempfile

NO_DEVICE = 100  # cudaErrorNoDevice
SPECIAL = {
    "cudaGetErrorString": 'const char *%s(void) { return "there is no device"; }',
    "cudaGetErrorName": 'const char *%s(void) { return "cudaErrorNoDevice"; }',
    # Asked of every stream, also where there is none: nothing is captured.
    "cudaStreamIsCapturing": "int %s(void *stream, int *status) { *status = 0; return 0; }",
}
THEIRS = re.compile(r"(cu[A-Z_a-z]|nv[A-Z_a-z]|nccl|__cuda|_?nvshmem)")


def symbols(library):
    """What a library wants of others, and what it has."""
    wants, has = set(), set()
    for line in subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout.splitlines():
        *_, kind, name = line.split()
        (wants if kind in "Uw" else has).add(name.partition("@")[0])
    return wants, has


def missing(library, environ):
    out = subprocess.run(["ldd", library], capture_output=True, text=True, env=environ).stdout
    return {line.split()[0] for line in out.splitlines() if "not found" in line}


def main(environment):
    (lib,) = glob.glob(os.path.join(environment, "lib", "python3*", "site-packages", "torch", "lib"))
    if os.path.exists(os.path.join(lib, "libno_device.so")):
        return
    libraries = glob.glob(os.path.join(lib, "*.so*")) + glob.glob(os.path.join(os.path.dirname(lib), "_C*.so"))
    wants, has, names = set(), set(), set()
    for library in libraries:
        w, h = symbols(library)
        wants, has, names = wants | w, has | h, names | missing(library, dict(os.environ, LD_LIBRARY_PATH=""))
    functions = sorted(n for n in wants - has if THEIRS.match(n) and not n.startswith("_Z"))
    with tempfile.TemporaryDirectory() as tmp:
        source = os.path.join(tmp, "all.c")
        with open(source, "w") as f:
            f.writelines(SPECIAL.get(name, "long %%s(void) { return %d; }" % NO_DEVICE) % name + "\n" for name in functions)
        compile_ = ["gcc", "-w", "-fno-builtin", "-shared", "-fPIC", "-Os"]
        subprocess.run(compile_ + ["-Wl,-soname,libno_device.so", "-o", os.path.join(lib, "libno_device.so"), source], check=True)
        empty = os.path.join(tmp, "empty.c")
        open(empty, "w").close()
        for name in names:
            subprocess.run(
                compile_ + ["-Wl,--no-as-needed", "-Wl,-soname," + name, "-Wl,-rpath,$ORIGIN", "-L" + lib, "-o", os.path.join(lib, name), empty, "-lno_device"], check=True
            )
    print("%d libraries, %d functions" % (len(names), len(functions)))


if __name__ == "__main__":
    main(*sys.argv[1:])
