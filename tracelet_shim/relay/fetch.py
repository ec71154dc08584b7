"""The process that gets an artifact from a tracker. Started by `tracelet_shim.bus.fetching`, through `_start`.

    ... -m tracelet_shim.relay.fetch PARENT_PID

The question is on standard input, the answer goes to standard output. Both are moved away before the SDK is imported, so that
what it prints cannot mix with them. Ends at once when its parent is gone.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from tracelet_shim.backends.base import Backend, NoSuchArtifactError
from tracelet_shim.bus import wire
from tracelet_shim.bus.fetching import Answer, Question
from tracelet_shim.provenance.secrets import mask_text
from tracelet_shim.relay.guest import backend_at, take_place
from tracelet_shim.relay.troubles import text_of

__all__ = ["answer"]

_TICK = 0.5


def answer(backend: type[Backend], question: Question) -> Answer:
    """Ask a tracker. Never raises."""
    try:
        options = backend.parsed(question.options)
        got = backend.fetch(options, question.run, question.name, question.directory)
    except NoSuchArtifactError as error:
        return Answer(problem=mask_text(str(error)), missing=True)
    except Exception as error:
        return Answer(problem=mask_text(text_of(error)) + _advice(backend, question, error))
    return Answer(got.path, got.identity)


def _advice(backend: type[Backend], question: Question, error: Exception) -> str:
    try:
        advice = backend(question.options).advice(error)
    except Exception:  # what it would go by may be known of an open run only
        advice = backend.credentials
    return f" ({advice})" if advice else ""


def main() -> None:
    """Answer one question."""
    parent = int(sys.argv[1])
    output = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    with open(0, "rb", closefd=False) as asked:
        decoder: wire.Decoder[Question] = wire.Decoder(Question)
        question = decoder.decode(asked.read())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    take_place(question.run.program)
    try:
        said = answer(backend_at(question.class_path), question)
    except Exception as error:
        said = Answer(problem=text_of(error))
    with open(output, "wb") as file:
        file.write(wire.Encoder().encode(said))
    sys.stderr.flush()
    os._exit(0)  # an SDK's exit handlers may hang


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_TICK)
    os._exit(1)


if __name__ == "__main__":
    main()
