"""The meaning of a piece of Python: the same text for the same behaviour, whatever its comments and formatting.

Left out: comments, docstrings and other bare strings, line breaks, quotes, parentheses, ``pass``, the annotations of
functions and of their local variables (those of a class's fields count: dataclasses and pydantic read them), and
imports from this package, which are followed instead (closure.py).

``ast.dump`` differs from one version of Python to the next; this text lists a node's type and those of its fields
that are not empty, so every supported version gives the same.
"""

import ast
from collections.abc import Iterator

PACKAGE = "pipeline"
_IGNORED_FIELDS = {"ctx", "kind", "type_comment", "returns"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def meaning(node: ast.AST) -> str:
    """Return a text that is equal for two pieces of code if they differ in comments, docstrings or formatting alone.

    Args:
        node: any statement or expression of a parsed file.

    Returns:
        The node and its children as nested parentheses.
    """
    return "".join(_written(node, in_function=False))


def is_bare_string(statement: ast.stmt) -> bool:
    """Tell whether a statement is a docstring or a string in the place of a comment."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _written(node: ast.AST, in_function: bool) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield f"({type(node.value).__name__} {node.value!r})"
        return
    if in_function and isinstance(node, ast.AnnAssign) and node.value:  # a local variable's annotation means nothing
        node = ast.Assign(targets=[node.target], value=node.value)
    inside = isinstance(node, _FUNCTIONS) or (in_function and not isinstance(node, ast.ClassDef))
    yield f"({type(node).__name__}"
    for name, value in ast.iter_fields(node):
        if name in _IGNORED_FIELDS or (not value and not isinstance(value, int)):
            continue
        if name == "annotation" and isinstance(node, ast.arg):
            continue
        yield f" {name}="
        yield from _field(value, inside)
    yield ")"


def _field(value: object, in_function: bool) -> Iterator[str]:
    if isinstance(value, list):
        yield "["
        for item in value:
            if isinstance(item, ast.AST):
                if not _is_meaningless(item, in_function):
                    yield from _written(item, in_function)
            else:
                yield f"({item!r})"
        yield "]"
    elif isinstance(value, ast.AST):
        yield from _written(value, in_function)
    else:
        yield repr(value)


def _is_meaningless(node: ast.AST, in_function: bool) -> bool:
    if in_function and isinstance(node, ast.AnnAssign) and node.value is None:
        return True
    if isinstance(node, ast.Pass) or (isinstance(node, ast.stmt) and is_bare_string(node)):
        return True
    if isinstance(node, ast.Import):
        return all(alias.name.split(".")[0] == PACKAGE for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE
