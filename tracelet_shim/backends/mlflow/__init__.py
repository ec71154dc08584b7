from tracelet_shim.backends.mlflow.backend import MLflowBackend

__all__ = ["MLflowBackend"]
