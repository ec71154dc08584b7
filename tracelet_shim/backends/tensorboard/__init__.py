from tracelet_shim.backends.tensorboard.backend import TensorBoardBackend

__all__ = ["TensorBoardBackend"]
