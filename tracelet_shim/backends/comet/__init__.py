from tracelet_shim.backends.comet.backend import CometBackend

__all__ = ["CometBackend"]
