from tracelet_shim.backends.swanlab.backend import SwanLabBackend

__all__ = ["SwanLabBackend"]
