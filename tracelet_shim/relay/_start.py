"""How the relay process begins: run as a script by `tracelet_shim.bus.process`, before anything else is imported.

    python .../relay/_start.py -m tracelet_shim.relay PARENT_PID SIGTERM_FD

Neither ``-m`` nor ``PYTHONPATH`` can start the relay as the training process imports: with either, the directory that this
package lies in, which has the packages of others, would stand before the standard library.
"""

import sys

if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # this directory

    import json
    import os
    import runpy
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    sys.path[:] = json.loads(os.environ.pop("_TRACELET_PATH"))
    # The same files that the training process has imported, wherever its path would lead by now.
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    spec = PathFinder.find_spec("tracelet_shim", [home])
    assert spec is not None
    assert spec.loader is not None
    package = sys.modules["tracelet_shim"] = module_from_spec(spec)
    spec.loader.exec_module(package)
    name = sys.argv[2]
    del sys.argv[1:3]
    runpy.run_module(name, run_name="__main__", alter_sys=True)
