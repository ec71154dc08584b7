from tracelet_shim.backends.dvclive.backend import DVCLiveBackend

__all__ = ["DVCLiveBackend"]
