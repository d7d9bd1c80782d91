"""Make PyTorch's public wheels, which are built for CUDA, run on a machine
without it: for tests alone.

    cpu_torch.py ENVIRONMENT [INDEX]

With INDEX it also packs what it made as a wheel, in a folder that can be served
as an index: so the platform installs it as it would PyTorch's own.

The public index has no CPU build, and the CUDA libraries that the wheels ask
for are several gigabytes. Here each of them is a library of a few lines whose
functions answer "no device", put beside PyTorch's own.
"""
import base64
import glob
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile

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


def main(environment, index=None):
    make(environment)
    if index is not None:
        pack(*glob.glob(os.path.join(environment, "lib", "python3*", "site-packages")), os.path.join(index, "torch"))


def make(environment):
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


def pack(site, folder):
    """Write torch as it is in site into folder, as a wheel of its own version
    that needs no CUDA."""
    (info,) = glob.glob(os.path.join(site, "torch-*.dist-info"))
    version = os.path.basename(info)[len("torch-") : -len(".dist-info")] + "+cpu"
    tag = "cp3%d-cp3%d-linux_x86_64" % ((int(os.path.basename(os.path.dirname(site))[len("python3.") :]),) * 2)
    path = os.path.join(folder, "torch-%s-%s.whl" % (version, tag))
    if os.path.exists(path):
        return
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(info, "METADATA"), encoding="utf-8") as f:
        metadata = "".join(
            "Version: %s\n" % version if line.startswith("Version: ") else line
            for line in f if not re.match(r"Requires-Dist: (nvidia|cuda|triton)", line)
        )
    with open(os.path.join(info, "entry_points.txt"), "rb") as f:  # by them it finds gloo
        entries = f.read()
    record = []
    with zipfile.ZipFile(path + ".part", "w", zipfile.ZIP_STORED) as wheel:

        def put(name, data):
            wheel.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append("%s,sha256=%s,%d\n" % (name, digest, len(data)))

        for package in ("torch", "torchgen", "functorch"):
            for here, folders, names in os.walk(os.path.join(site, package)):
                folders[:] = [f for f in folders if f != "__pycache__"]
                for name in names:
                    with open(os.path.join(here, name), "rb") as f:
                        put(os.path.relpath(os.path.join(here, name), site), f.read())
        info = "torch-%s.dist-info/" % version
        put(info + "METADATA", metadata.encode())
        put(info + "entry_points.txt", entries)
        put(info + "WHEEL", ("Wheel-Version: 1.0\nGenerator: cpu_torch\nRoot-Is-Purelib: false\nTag: %s\n" % tag).encode())
        wheel.writestr(info + "RECORD", "".join(record) + info + "RECORD,,\n")
    os.rename(path + ".part", path)


if __name__ == "__main__":
    main(*sys.argv[1:])
