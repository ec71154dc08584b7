from tracelet_shim.backends.wandb.backend import WandbBackend

__all__ = ["WandbBackend"]
