"""The mutants of a module: one small change each to its syntax tree, whose positions are kept.

Left alone: docstrings and other text, error messages, annotations, decorators, assertions, `strict` of `zip`, and `__repr__`.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.BitXor: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_NAMES = {"min": "max", "argmin": "argmax", "floor": "ceil", "any": "all", "minimum": "maximum"}
_NAMES |= {new: old for old, new in _NAMES.items()}
_NEGATIONS = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)  # swapping these is the same as `not`
_SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "type_params", "bases"}
_CONTEXT = 60  # characters shown on each side of a change

Edit = tuple[Any, str, int | None, Any]
"""Holder, field, place in a list or None, and the new value."""


@dataclass(frozen=True, eq=False)
class Mutant:
    """One change.

    Args:
        function: where it lies, dotted; empty at the level of the module.
        line, mutant: the source of the statement before and after, normalised, cut to what surrounds the change.
        lines: numbers of the lines that must be executed for it to matter; None where that cannot be told.
    """

    function: str
    line: str
    mutant: str
    lines: frozenset[int] | None
    edit: Edit

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it in `known.toml`."""
        return self.function, self.line, self.mutant


def apply(edit: Edit) -> Edit:
    """Change the tree, and give the edit that takes it back."""
    holder, field, place, new = edit
    if place is None:
        old = getattr(holder, field)
        setattr(holder, field, new)
    else:
        old = getattr(holder, field)[place]
        getattr(holder, field)[place] = new
    return holder, field, place, old


def make_mutants(tree: ast.Module) -> list[Mutant]:
    """All mutants of a module, in the order of its source."""
    return list(_in_body(tree, "body", "", function=None))


def _in_body(owner: Any, field: str, name: str, *, function: ast.AST | None) -> Iterator[Mutant]:
    for place, statement in enumerate(getattr(owner, field)):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{statement.name}" if name else statement.name
            if statement.name == "__repr__" or _is_of_types(statement):
                continue
            is_function = not isinstance(statement, ast.ClassDef)
            if is_function:
                yield from _record(statement, statement, inner, _edits(statement.args))
            yield from _in_body(statement, "body", inner, function=statement if is_function else function)
            continue
        if isinstance(statement, ast.Assert | ast.Import | ast.ImportFrom | ast.Pass | ast.Global | ast.Nonlocal):
            continue
        shown = function or owner
        yield from _record(statement, shown, name, _whole_edits(owner, field, place, function))
        yield from _record(statement, shown, name, _edits(statement))
        for block in ("body", "orelse", "finalbody"):
            if isinstance(getattr(statement, block, None), list):
                yield from _in_body(statement, block, name, function=function)
        for handler in getattr(statement, "handlers", []):
            yield from _in_body(handler, "body", name, function=function)


def _is_of_types(statement: Any) -> bool:
    return isinstance(statement, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in statement.bases)


def _record(statement: Any, shown: Any, name: str, edits: Iterator[Edit]) -> Iterator[Mutant]:
    """Give each edit its text and lines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        lines = range(statement.body[0].lineno, (statement.end_lineno or statement.lineno) + 1)
    elif isinstance(shown, ast.FunctionDef | ast.AsyncFunctionDef):
        body = getattr(statement, "body", None)
        end = body[0].lineno - 1 if isinstance(body, list) else statement.end_lineno
        lines = range(statement.lineno, max(end, statement.lineno) + 1)
    else:
        lines = None
    before = _show(statement)
    for edit in edits:
        if isinstance(edit[3], ast.stmt):
            line, mutant = _cut(before, _show(edit[3]))
        else:
            back = apply(edit)
            after = _show(statement)
            apply(back)
            line, mutant = _cut(before, after)
        if line != mutant:
            yield Mutant(name, line, mutant, None if lines is None else frozenset(lines), edit)


def _show(statement: Any) -> str:
    """A statement in one line, without its body."""
    match statement:
        case ast.If():
            text = f"if {ast.unparse(statement.test)}:"
        case ast.While():
            text = f"while {ast.unparse(statement.test)}:"
        case ast.For():
            text = f"for {ast.unparse(statement.target)} in {ast.unparse(statement.iter)}:"
        case ast.With():
            text = f"with {', '.join(ast.unparse(item) for item in statement.items)}:"
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            text = f"def {statement.name}({ast.unparse(statement.args)}):"
        case ast.Try():
            text = "try:"
        case _:
            text = ast.unparse(statement)
    return " ".join(text.split())


def _cut(before: str, after: str) -> tuple[str, str]:
    """Both texts without what is far from their difference."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    first = start - _CONTEXT if start > _CONTEXT + 3 else 0
    last = end - _CONTEXT if end > _CONTEXT + 3 else 0
    head, tail = "..." if first else "", "..." if last else ""
    return head + before[first : len(before) - last] + tail, head + after[first : len(after) - last] + tail


def _whole_edits(owner: Any, field: str, place: int, function: ast.AST | None) -> Iterator[Edit]:
    """A statement left out, or a returned value lost."""
    statement = getattr(owner, field)[place]
    nothing = ast.copy_location(ast.Pass(), statement)
    match statement:
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Break() | ast.Continue():
            yield owner, field, place, nothing
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield owner, field, place, nothing
        case ast.Assign(targets=[ast.Name(id=name)]) if function is not None and _bound_before(
            function, name, statement
        ):
            yield owner, field, place, nothing
        case ast.Return(value=value) if value is not None and not (isinstance(value, ast.Constant) and not value.value):
            lost = ast.copy_location(ast.Constant(None), value)
            yield owner, field, place, ast.copy_location(ast.Return(lost), statement)


def _bound_before(function: Any, name: str, statement: ast.stmt) -> bool:
    args = function.args
    if name in {arg.arg for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs]}:
        return True
    stores = [
        n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store)
    ]
    return any(store.lineno < statement.lineno for store in stores)


def _edits(node: Any) -> Iterator[Edit]:
    """The changes within a statement or expression; blocks of statements are left to the caller."""
    match node:
        case ast.If() | ast.While() | ast.IfExp() if _may_be_negated(node.test):
            yield node, "test", None, _negate(node.test)
        case ast.comprehension():
            for place, test in enumerate(node.ifs):
                if _may_be_negated(test):
                    yield node, "ifs", place, _negate(test)
        case ast.Compare():
            for place, op in enumerate(node.ops):
                yield node, "ops", place, _COMPARE[type(op)]()
        case ast.BoolOp():
            yield node, "op", None, ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.BinOp() | ast.AugAssign() if type(node.op) in _BINARY and not _is_text(node):
            yield node, "op", None, _BINARY[type(node.op)]()
        case ast.Constant() if (new := _other_value(node.value)) is not None:
            yield node, "value", None, new
        case ast.Name() if node.id in _NAMES and isinstance(node.ctx, ast.Load):
            yield node, "id", None, _NAMES[node.id]
        case ast.Attribute() if node.attr in _NAMES and isinstance(node.ctx, ast.Load):
            yield node, "attr", None, _NAMES[node.attr]
        case ast.Call():
            for place, keyword in enumerate(node.keywords):
                if keyword.arg is not None and not _is_guard(node, keyword):
                    yield node, "keywords", None, node.keywords[:place] + node.keywords[place + 1 :]
    for field, value in ast.iter_fields(node):
        if field in _SKIPPED_FIELDS or (
            isinstance(node, ast.Call) and field == "args" and _name(node.func) == "isinstance"
        ):
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.stmt | ast.ExceptHandler | ast.JoinedStr):
                continue
            if isinstance(child, ast.keyword) and _is_guard(node, child):
                continue
            match child:
                case ast.UnaryOp(op=ast.Not() | ast.USub()):
                    yield node, field, place, child.operand
                case ast.BinOp(op=ast.Pow()):
                    yield node, field, place, child.left
            yield from _edits(child)


def _is_guard(call: Any, keyword: ast.keyword) -> bool:
    """Whether it is `strict` of `zip`, which like an assertion matters only where the code is wrong already."""
    return keyword.arg == "strict" and _name(call.func) == "zip"


def _may_be_negated(test: ast.expr) -> bool:
    """Whether `not test` is a mutant that no other change makes."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return False
    return not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], _NEGATIONS))


def _negate(test: ast.expr) -> ast.expr:
    return ast.copy_location(ast.UnaryOp(ast.copy_location(ast.Not(), test), test), test)


def _other_value(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return 0 if value == 1 else value + 1
        case float():
            return value * 1.1 if value else 1.0
    return None


def _is_text(node: Any) -> bool:
    sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(
        isinstance(s, ast.JoinedStr) or (isinstance(s, ast.Constant) and isinstance(s.value, str)) for s in sides
    )


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""
