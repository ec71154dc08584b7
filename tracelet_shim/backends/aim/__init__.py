from tracelet_shim.backends.aim.backend import AimBackend

__all__ = ["AimBackend"]
