"""timm where torchvision does not import beside this PyTorch: a stand-in for the names that timm imports and networks never call."""

import importlib
import sys
import types

import pytest

NAMES = (
    "",
    ".transforms",
    ".transforms.functional",
    ".datasets",
    ".ops",
    ".ops.misc",
    ".models",
    ".models.feature_extraction",
    ".io",
)


class _Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Module(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


def import_timm():
    """The library, or a skip with the reason."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in NAMES:
            sys.modules[f"torchvision{name}"] = _Module(f"torchvision{name}")
    return pytest.importorskip("timm", reason="timm is not installed")
