"""What differs in the core between 0.8 and 0.10."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

__all__ = ["config_record", "metadata_record", "settings_with", "tag_length", "tells_results"]


def config_record(run: Any) -> Any:
    """Return the record of a run's config, as it is now, with its file written.

    Until 0.10.0 an event of the config has no content: the file is written by whoever changes it.
    """
    from google.protobuf.timestamp_pb2 import Timestamp
    from swanlab.proto.swanlab.save.v1.save_pb2 import SaveRecord, SaveType

    config = run.config
    writer: Any = importlib.import_module("swanlab.sdk.internal.run.components.config.writer")
    if hasattr(writer, "format_config"):
        from swanlab.sdk.internal.bus import ConfigEvent
        from swanlab.sdk.internal.run.components.consumer.builder import RecordBuilder

        content = writer.format_config(config._config, config._sort)
        return RecordBuilder(run._ctx).build_config(ConfigEvent(path=config._file, timestamp=Timestamp(), content=content))
    writer.write_config(config._file, config._config, config._sort)
    return SaveRecord(name="config", source_path=config._file.absolute().as_posix(), type=SaveType.SAVE_TYPE_CONFIG)


def metadata_record(text: str, target: Path) -> Any:
    """Return the record of what SwanLab knows of the program, with its file written."""
    from swanlab.proto.swanlab.save.v1.save_pb2 import SaveRecord, SaveType

    utils: Any
    try:
        utils = importlib.import_module("swanlab.sdk.internal.probe_python.utils")
    except ImportError:  # until 0.10.0
        target.write_text(text, encoding="utf-8")
        return SaveRecord(name="metadata", source_path=target.absolute().as_posix(), type=SaveType.SAVE_TYPE_METADATA)
    return utils.make_save_record("metadata", SaveType.SAVE_TYPE_METADATA, text, target)


def settings_with(given: Any) -> Any:
    """Return the settings that a run would have that is given these: 0.8 makes them of the environment each time."""
    module: Any = importlib.import_module("swanlab.sdk.internal.settings")
    known = module.create_settings() if hasattr(module, "create_settings") else module.Settings()
    if not hasattr(module, "create_settings"):
        known.merge_settings(module.settings)
    known.merge_settings(given)
    return known


def tag_length() -> int:
    """Return how many characters a tag may have: 20 in 0.8, 512 later."""
    constraints: Any = importlib.import_module("swanlab.sdk.internal.pkg.constraints")
    rules = [rule for field in constraints.TagString.__metadata__ for rule in getattr(field, "metadata", ())]
    return min((int(rule.max_length) for rule in rules if hasattr(rule, "max_length")), default=512)


def tells_results() -> bool:
    """True if the uploads tell which records they took: until 0.10.0 they return nothing, and a 4xx is a line in a log."""
    try:
        importlib.import_module("swanlab.sdk.typings.core_python.transport")
    except ImportError:
        return False
    return True
