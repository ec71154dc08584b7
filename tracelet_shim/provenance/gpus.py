"""The NVIDIA GPUs of this machine, through NVML (the package nvidia-ml-py). Without package or driver there are none."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Gpus"]

logger = logging.getLogger("tracelet_shim.relay")


class Gpus:
    """Opened once; used from one thread.

    Attributes:
        problem: what keeps us from seeing GPUs that are there, with the remedy; None if nothing does.
    """

    def __init__(self) -> None:
        self._devices: list[Any] = []
        self.problem: str | None = None
        try:
            import pynvml
        except ImportError:
            if os.path.exists("/proc/driver/nvidia/version"):
                self.problem = "the GPUs cannot be seen without nvidia-ml-py; remedy: pip install 'tracelet-shim[system]'"
            return
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._devices = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:  # no driver, as a rule: a machine without a GPU
            logger.info("no GPUs: %s", error)

    def describe(self) -> dict[str, Any]:
        """Return driver, highest CUDA version that it serves, and name and memory (bytes) of each GPU; empty without any."""
        if not self._devices:
            return {}
        cuda = self._ask(self._nvml.nvmlSystemGetCudaDriverVersion_v2)
        return {
            "driver": self._ask(self._nvml.nvmlSystemGetDriverVersion),
            "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda is not None else None,
            "devices": [
                {
                    "name": self._ask(self._nvml.nvmlDeviceGetName, device),
                    "memory": getattr(self._ask(self._nvml.nvmlDeviceGetMemoryInfo, device), "total", None),
                }
                for device in self._devices
            ],
        }

    def sample(self) -> Iterator[tuple[str, float]]:
        """Yield (name, value) of what each GPU can tell: percent, megabytes, degrees Celsius and watts."""
        for index, device in enumerate(self._devices):
            load = self._ask(self._nvml.nvmlDeviceGetUtilizationRates, device)
            memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, device)
            heat = self._ask(self._nvml.nvmlDeviceGetTemperature, device, self._nvml.NVML_TEMPERATURE_GPU)
            power = self._ask(self._nvml.nvmlDeviceGetPowerUsage, device)
            if load is not None:
                yield f"gpu.{index}.percent", float(load.gpu)
            if memory is not None:
                yield f"gpu.{index}.memory.mb", memory.used / 1e6
                yield f"gpu.{index}.memory.percent", 100.0 * memory.used / memory.total
            if heat is not None:
                yield f"gpu.{index}.celsius", float(heat)
            if power is not None:
                yield f"gpu.{index}.watts", power / 1e3

    def _ask(self, question: Callable[..., Any], *about: Any) -> Any:
        """Return the answer, or None: not every GPU has all of them. Texts are bytes in some versions of the package."""
        try:
            answer = question(*about)
        except self._nvml.NVMLError:
            return None
        return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
