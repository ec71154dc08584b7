"""What W&B's stand-in server says that it can: older SDKs ask before they use it. wandb-core up to 0.24 asks for the fields of an
input (``InputFields``), 0.17's service in Python for several types at a time (``Probe...``)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["described"]

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "Query": ("viewer", "serverInfo", "project", "model", "artifact", "clientIDMapping"),
    "Mutation": ("upsertBucket", "createRunFiles", "createArtifact", "createArtifactFiles", "commitArtifact"),
    "ServerInfo": ("cliVersionInfo", "latestLocalVersionInfo", "exposesExplicitUploadHeaders"),
    "ServerSettings": (),
    "Artifact": ("id", "state", "digest", "artifactType", "aliases", "historyStep"),
    "CreateArtifactInput": (
        "entityName", "projectName", "runName", "artifactTypeName", "artifactCollectionName", "digest", "digestAlgorithm",
        "description", "aliases", "metadata", "historyStep", "enableDigestDeduplication", "distributedID", "clientID",
        "sequenceClientID", "ttlDurationSeconds", "tags", "storageRegion",
    ),
    "CreateArtifactFileSpecInput": ("artifactID", "name", "md5", "mimetype", "artifactManifestID"),
    "UseArtifactInput": ("entityName", "projectName", "runName", "artifactID"),
}  # fmt: skip


def described(query: str, variables: Mapping[str, Any]) -> dict[str, Any] | None:
    """Answer each ``Alias: __type(name: ...)`` of a query; None if there is none."""
    found = re.findall(r'(\w+)\s*:\s*__type\(\s*name\s*:\s*("\w+"|\$\w+)\s*\)', query)
    if not found:
        return None
    kinds = {alias: name.strip('"') if name[0] == '"' else str(variables[name[1:]]) for alias, name in found}
    return {alias: _described(kind) for alias, kind in kinds.items()}


def _described(kind: str) -> dict[str, Any] | None:
    if kind not in _FIELDS:
        return None
    return {"name": kind, "inputFields" if kind.endswith("Input") else "fields": [{"name": name} for name in _FIELDS[kind]]}
