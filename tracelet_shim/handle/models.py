"""Modules of torch as a directory: the whole module, pickled as `torch.save` does it, laid out as MLflow's `pytorch.save_model`
does it, so that MLflow loads it from wherever it is (``mlflow/pytorch/__init__.py``, `_load_model`)."""

from __future__ import annotations

import os
import platform
from typing import Any

__all__ = ["is_module", "write"]

_MLMODEL = """flavors:
  python_function:
    data: data
    loader_module: mlflow.pytorch
    pickle_module_name: pickle
    python_version: {python}
  pytorch:
    code: null
    model_data: data
    pytorch_version: {torch}
"""


def is_module(model: Any) -> bool:
    """Return whether this is a module of torch, which is not imported for it."""
    return hasattr(model, "state_dict") and hasattr(model, "forward")


def write(module: Any, directory: str) -> None:
    """Write a module as it is now.

    Raises:
        Exception: it cannot be pickled; the class of a script's function cannot, for one.
    """
    import torch

    os.mkdir(os.path.join(directory, "data"))
    torch.save(module, os.path.join(directory, "data", "model.pth"))
    about = _MLMODEL.format(python=platform.python_version(), torch=torch.__version__)
    requirement = f"torch=={torch.__version__.partition('+')[0]}\n"
    for name, text in (("MLmodel", about), ("requirements.txt", requirement), ("data/pickle_module_info.txt", "pickle")):
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)
