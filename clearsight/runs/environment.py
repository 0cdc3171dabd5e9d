"""The machine and the libraries that a run is trained with."""

import os
import platform
from functools import cache
from importlib import metadata
from typing import Any

from clearsight import __version__


def describe_environment() -> dict[str, Any]:
    """What the run was made with."""
    packages = ("matplotlib", "numpy", "numba", "scipy", "scikit-learn", "pillow", "safetensors")
    return {
        "clearsight": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        **{name: _find_version(name) for name in packages},
    }


@cache
def _find_version(name: str) -> str:
    """Kept, because to read it takes longer than a step of training."""
    return metadata.version(name)
