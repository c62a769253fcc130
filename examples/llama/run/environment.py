"""Where a result was measured: versions and machine."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax


def versions() -> dict[str, str]:
    """Python and the packages that a result depends on."""
    packages = ("jax", "jaxlib", "optax", "flax", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def machine() -> dict[str, str | int | None]:
    """Processor, cores and devices."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
