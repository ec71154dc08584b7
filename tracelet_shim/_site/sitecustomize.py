"""Put on ``PYTHONPATH`` by ``tracelet-shim run`` where the .pth file is not installed: activates in its stead.

There can be one ``sitecustomize`` only, and this one hides the user's or the system's. So it runs that one, too.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _start() -> None:
    try:
        from tracelet_shim import _bootstrap
    except ModuleNotFoundError:
        # Run from a checkout: its directory was the parent's working directory, and is on no path here. Put it last,
        # so that nothing else in it hides what the program imports.
        sys.path.append(str(_HERE.parents[1]))
        from tracelet_shim import _bootstrap
    _bootstrap.start()


def _run_hidden_one() -> None:
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != _HERE]
    spec = PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)  # what it raises is reported by `site`, as it would be without us


try:
    _start()
except Exception as error:  # the program has not asked for us: it must start all the same
    text = ascii(str(error))[1:-1]  # our own modules, which know better what can be shown, may be what is missing
    sys.stderr.write(f"tracelet-shim: {text} (training goes on without it)\n")
_run_hidden_one()
