"""The SDK's random numbers, which it keeps apart from the program's in threads of ours."""

from __future__ import annotations

from tests.conftest import RunPython


def test_sdk_that_the_program_calls_draws_as_ever(run_python: RunPython) -> None:
    """In the main thread, a module of the SDK still draws from Python's generator: the program may have seeded it for that."""
    done = run_python(
        """
        import random, threading
        from swanlab.utils import experiment
        from tracelet_shim.relay.own_random import keep_apart

        keep_apart("swanlab")
        random.seed(0)
        other = threading.Thread(target=experiment.random.random)
        other.start(); other.join()
        first = experiment.random.random()
        random.seed(0)
        print(first == random.random(), experiment.random is not random)
        """
    )
    assert done.stdout.split() == ["True", "True"]
