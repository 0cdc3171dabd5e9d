"""Putting a mutant into a module that is loaded and in use, so that nothing need be imported again.

Functions get the changed code, wherever they are held; changed constants, defaults and attributes of classes are replaced where
they were copied to by import. Compiled functions (Numba) are out of reach: such a change counts as not installed.
"""

import ast
import gc
import sys
from types import CodeType, FunctionType, ModuleType
from typing import Any

Place = tuple[str, int]
Functions = dict[Place, list[FunctionType]]
_PLAIN = (int, float, complex, str, bytes, tuple, frozenset, type(None))


def find_functions(module: ModuleType) -> Functions:
    """All live functions of a module by qualified name and line, whatever wraps them."""
    found: Functions = {}
    for item in gc.get_objects():
        if type(item) is FunctionType and item.__globals__ is module.__dict__:
            found.setdefault((item.__code__.co_qualname, item.__code__.co_firstlineno), []).append(item)
    return found


def install(module: ModuleType, functions: Functions, tree: ast.Module) -> int:
    """Bring a changed tree of `module` into force. Gives the number of things changed, 0 where none could be."""
    code = compile(tree, module.__file__ or "", "exec")
    return _replace_code(code, functions) or _replace_values(module, code)


def _replace_code(code: CodeType, functions: Functions) -> int:
    changed = 0
    for inner in code.co_consts:
        if not isinstance(inner, CodeType):
            continue
        for function in functions.get((inner.co_qualname, inner.co_firstlineno), []):
            if function.__code__ != inner and function.__code__.co_freevars == inner.co_freevars:
                function.__code__ = inner
                changed += 1
        changed += _replace_code(inner, functions)
    return changed


def _replace_values(module: ModuleType, code: CodeType) -> int:
    fresh = {
        name: module.__dict__.get(name) for name in ("__name__", "__file__", "__package__", "__spec__", "__loader__")
    }
    exec(code, fresh)  # noqa: S102  # the module's own source with one change
    changed = 0
    for name, new in fresh.items():
        old = module.__dict__.get(name)
        if name.startswith("__") or getattr(new, "__module__", module.__name__) != module.__name__:
            continue
        if isinstance(old, type) and isinstance(new, type):
            changed += _update_class(old, new)
        elif isinstance(old, FunctionType) and isinstance(new, FunctionType):
            changed += _update_defaults(old, new)
        elif isinstance(old, dict) and isinstance(new, dict):
            if all(isinstance(value, _PLAIN) for value in new.values()) and old != new:
                old.clear()
                old.update(new)
                changed += 1
        elif isinstance(old, _PLAIN) and isinstance(new, _PLAIN) and old != new:
            changed += _rebind(module, name, old, new)
    return changed


def _rebind(module: ModuleType, name: str, old: Any, new: Any) -> int:
    """Change a constant in its module, and in all that imported it by this name."""
    others = [] if name.startswith("_") else [m for m in list(sys.modules.values()) if m is not module]
    holders = [module, *(m for m in others if getattr(m, "__dict__", {}).get(name) is old)]
    for holder in holders:
        setattr(holder, name, new)
    return len(holders)


def _update_class(old: type, new: type) -> int:
    changed = 0
    for name, value in vars(new).items():
        own = vars(old).get(name)
        if isinstance(own, FunctionType) and isinstance(value, FunctionType):
            changed += _update_defaults(own, value)
        elif not name.startswith("__") and isinstance(own, _PLAIN) and isinstance(value, _PLAIN) and own != value:
            setattr(old, name, value)
            changed += 1
    return changed


def _update_defaults(old: FunctionType, new: FunctionType) -> int:
    """Plain defaults as they now are; others, such as functions, stay."""
    before = old.__defaults__ or (), old.__kwdefaults__ or {}
    placed, named = new.__defaults__ or (), new.__kwdefaults__ or {}
    if len(placed) != len(before[0]) or set(named) != set(before[1]):
        return 0
    placed = tuple(value if isinstance(value, _PLAIN) else kept for value, kept in zip(placed, before[0], strict=True))
    named = {name: value if isinstance(value, _PLAIN) else before[1][name] for name, value in named.items()}
    if (placed, named) == before:
        return 0
    old.__defaults__, old.__kwdefaults__ = placed, named
    return 1
