"""Models of torch as a directory. A module is pickled as a whole, and laid out as MLflow's `pytorch.save_model` does it, so that
MLflow loads it from wherever it is (``mlflow/pytorch/__init__.py``, `_load_model`)."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

__all__ = ["default_name", "is_model", "write"]

_MLMODEL = """flavors:
  python_function:
    data: data
    loader_module: mlflow.pytorch
    pickle_module_name: {pickle}
    python_version: {python}
  pytorch:
    code: null
    model_data: data
    pytorch_version: {torch}
"""
_STATE = "state_dict.pt"


def is_model(model: Any) -> bool:
    """Return whether this is a module of torch, or the state of one; torch is not imported for it."""
    return _is_module(model) or _is_state(model)


def default_name(model: Any) -> str:
    """Return what a model is called that has been given no name."""
    return type(model).__name__ if _is_module(model) else "state_dict"


def _is_module(model: Any) -> bool:
    return hasattr(model, "state_dict") and hasattr(model, "forward")


def _is_state(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, Mapping) and any(isinstance(value, torch.Tensor) for value in model.values())


def write(model: Any, directory: str) -> str:
    """Write a model as it is now; return what is to be said of it, if anything. A module that cannot be pickled has its state
    written instead.

    Raises:
        Exception: not even that can be.
    """
    import torch

    if not _is_module(model):
        torch.save(model, os.path.join(directory, _STATE))
        return ""
    data = os.path.join(directory, "data")
    os.mkdir(data)
    path = os.path.join(data, "model.pth")
    pickling, pickle_name = _pickling()
    try:
        if isinstance(model, torch.jit.ScriptModule):
            model.save(path)
        else:
            torch.save(model, path, pickle_module=pickling)
    except Exception as error:
        if os.path.exists(path):
            os.unlink(path)
        os.rmdir(data)
        torch.save(model.state_dict(), os.path.join(directory, _STATE))
        problem = f"{type(model).__name__} cannot be pickled ({type(error).__name__}: {error})"
        return f"{problem}; its state_dict is logged instead, which MLflow does not load"
    about = _MLMODEL.format(python=platform.python_version(), torch=torch.__version__, pickle=pickle_name)
    requirements = [f"torch=={torch.__version__.partition('+')[0]}"]
    if pickle_name != "pickle":
        requirements.append(f"cloudpickle=={pickling.__version__}")
    files = {"MLmodel": about, "requirements.txt": "\n".join(requirements) + "\n", "data/pickle_module_info.txt": pickle_name}
    for name, text in files.items():
        with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
            file.write(text)
    if pickle_name == "pickle" and type(model).__module__ == "__main__":
        whose = f"{type(model).__name__} is a class of the main program, which no other program can load"
        return f"{whose}; remedy: pip install cloudpickle"
    return ""


def _pickling() -> tuple[ModuleType, str]:
    """Return what pickles for `torch.save`, and what MLflow is told of it. As in MLflow this is cloudpickle where that is, which
    comes with it: a class of the main program, or a lambda, goes with the module by value, so that other programs can load it."""
    import pickle

    try:
        import cloudpickle  # type: ignore[import-untyped]
    except ImportError:
        return pickle, "pickle"
    made = ModuleType("cloudpickle")
    vars(made).update({name: value for name, value in vars(cloudpickle).items() if name == "__version__" or name[:2] != "__"})
    made.Pickler, made.Unpickler = cloudpickle.CloudPickler, pickle.Unpickler  # type: ignore[attr-defined]
    return made, "mlflow.pytorch.pickle_module"
