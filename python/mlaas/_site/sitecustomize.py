"""Python runs this before the program: the folder is first on PYTHONPATH.

It does to the program what the platform asked for by MLAAS_ variables, and
then what the sitecustomize would have done that it hides.
"""
import os
import sys


def _install():
    if all(os.environ.get(v, "") in ("", "0") for v in ("MLAAS_HOOKS", "MLAAS_DEBUG", "MLAAS_SPREAD")):
        return
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if home not in sys.path:  # the program's own path may have replaced ours
        sys.path.append(home)
    try:
        from mlaas import _hook

        _hook.install()
    except Exception as e:  # a program without tracking is better than none
        sys.stderr.write("mlaas: nothing is tracked: %s: %s\n" % (type(e).__name__, e))


def _chain():
    """Run the sitecustomize that comes after this one, under its own name."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [p for p in sys.path if os.path.abspath(p) != here])
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_install()
_chain()
