from tracelet_shim.backends.clearml.backend import ClearMLBackend

__all__ = ["ClearMLBackend"]
