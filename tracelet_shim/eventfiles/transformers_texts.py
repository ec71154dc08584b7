"""What the Trainer of Hugging Face transformers writes about itself: its texts are the run's parameters, too.

Its `TensorBoardCallback` has no hparams: it writes `TrainingArguments.to_json_string()` as the text `args`, and the configuration
of the model as the text `model_config`. Both are recognised by tag and content alone, so a replay finds the same.
"""

from __future__ import annotations

import json

from tracelet_shim import events as ev

__all__ = ["parameters"]

_ALWAYS: dict[str, tuple[str, dict[str, type | tuple[type, ...]]]] = {
    "args": ("", {
        "output_dir": (str, type(None)), "per_device_train_batch_size": int, "learning_rate": (int, float), "max_steps": int,
        "num_train_epochs": (int, float), "seed": int,
    }),
    "model_config": ("model/", {"model_type": str, "transformers_version": str}),
}  # fmt: skip
"""Tag -> what stands before the names, so that `use_cache` of both are two; and what the JSON always has, of which types."""


def parameters(text: ev.Text) -> dict[str, bool | int | float | str]:
    """Return the parameters that a text tells; none for any other text than the Trainer's.

    A list, an object or null, which hparams cannot be, is its JSON.
    """
    if text.tag not in _ALWAYS or not text.text.startswith("{"):
        return {}
    prefix, always = _ALWAYS[text.tag]
    try:
        told = json.loads(text.text)
    except (ValueError, RecursionError):
        return {}
    if not all(name in told and isinstance(told[name], types) for name, types in always.items()):
        return {}
    return {
        f"{prefix}{name}": value if isinstance(value, (bool, int, float, str)) else json.dumps(value, ensure_ascii=False)
        for name, value in told.items()
    }
