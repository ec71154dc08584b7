"""``python -m tracelet_shim``: the ``tracelet-shim`` command."""

from tracelet_shim.cli import main

if __name__ == "__main__":
    main()
