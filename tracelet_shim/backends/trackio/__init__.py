from tracelet_shim.backends.trackio.backend import TrackioBackend

__all__ = ["TrackioBackend"]
