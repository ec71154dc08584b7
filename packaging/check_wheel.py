"""Try an installed wheel: run by `make wheel` with the interpreter of an environment that has the wheel, no tracker.

Usage: python -I packaging/check_wheel.py dist/tracelet_shim-*.whl
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
STATE = "import sys; print(any('tracelet_shim' in repr(f) for f in sys.meta_path), 'tracelet_shim' in sys.modules)"


def check_contents(wheel: Path) -> None:
    """Each module of the source tree is in the wheel, and so are the files that are no modules."""
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "tracelet_shim").rglob("*.py")}
    wanted |= {"tracelet_shim/py.typed", "tracelet_shim.pth", "tracelet_shim.start"}
    missing = sorted(wanted - names)
    if missing:
        sys.exit(f"{wheel.name} lacks {', '.join(missing)}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        sys.exit(f"{wheel.name} has no LICENSE")


def output_of(*command: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TRACELET_", "PYTHON"))}
    done = subprocess.run(
        command, env={**environment, **variables}, cwd=BIN, capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode or done.stderr:
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def expect(what: str, wanted: str, found: str | None) -> None:
    if found != wanted:
        sys.exit(f"{what}: expected {wanted!r}, found {found!r}")
    print(f"ok: {what}: {found}")


def main() -> None:
    """Check the wheel given on the command line; exits with a message at the first fault."""
    wheel = Path(sys.argv[1])
    version = wheel.name.split("-")[1]
    check_contents(wheel)
    python, command = sys.executable, str(BIN / "tracelet-shim")
    where = output_of(python, "-c", "import tracelet_shim; print(tracelet_shim.__file__)")
    expect("imported from the wheel", "True", str("site-packages" in where))
    expect("tracelet-shim --version", f"tracelet-shim {version}", output_of(command, "--version"))
    expect("python -m tracelet_shim", f"tracelet-shim {version}", output_of(python, "-m", "tracelet_shim", "--version"))
    expect("without the variable: finder, module", "False False", output_of(python, "-c", STATE))
    expect("TRACELET_BACKEND set", "True True", output_of(python, "-c", STATE, TRACELET_BACKEND="mlflow"))
    off = output_of(python, "-c", STATE, TRACELET_BACKEND="mlflow", TRACELET_DISABLED="1")
    expect("TRACELET_DISABLED set", "False False", off)
    expect("tracelet-shim run", "True True", output_of(command, "run", "-b", "mlflow", "--quiet", "--", python, "-c", STATE))
    # The core needs neither torch nor any tracker: everything public can be had, and every backend can be loaded.
    public = "import tracelet_shim as t; print(sorted(n for n in t.__all__ if not hasattr(t, n)))"
    expect("public names that are missing", "[]", output_of(python, "-c", public))
    rows = json.loads(output_of(command, "backends", "--json"))
    for row in rows:
        remedy = f"pip install 'tracelet-shim[{row['name']}]'"
        expect(f"backend {row['name']}", remedy, row["install"] or row["problem"])
    print(f"ok: {wheel.name}")


if __name__ == "__main__":
    main()
