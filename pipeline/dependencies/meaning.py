"""The meaning of a piece of Python: the same text for the same behaviour, whatever its comments and formatting.

Left out: comments, docstrings and other bare strings, line breaks, quotes, parentheses, ``pass``, the annotations of
functions and of their local variables (those of a class's fields count: dataclasses and pydantic read them), and
imports from this package, which are followed instead (closure.py).

``ast.dump`` differs from one version of Python to the next; this text lists a node's type and those of its fields
that are not empty, so every supported version gives the same.
"""

import ast

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
    parts: list[str] = []
    _write(node, in_function=False, to=parts)
    return "".join(parts)


def is_bare_string(statement: ast.stmt) -> bool:
    """Tell whether a statement is a docstring or a string in the place of a comment."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _write(node: ast.AST, in_function: bool, to: list[str]) -> None:
    if isinstance(node, ast.Constant):
        to.append(f"({type(node.value).__name__} {node.value!r})")
        return
    if in_function and isinstance(node, ast.AnnAssign) and node.value:  # a local variable's annotation means nothing
        node = ast.Assign(targets=[node.target], value=node.value)
    inside = isinstance(node, _FUNCTIONS) or (in_function and not isinstance(node, ast.ClassDef))
    to.append(f"({type(node).__name__}")
    for name, value in ast.iter_fields(node):
        if name in _IGNORED_FIELDS or (not value and not isinstance(value, int)):
            continue
        if name == "annotation" and isinstance(node, ast.arg):
            continue
        to.append(f" {name}=")
        _write_field(value, inside, to)
    to.append(")")


def _write_field(value: object, in_function: bool, to: list[str]) -> None:
    if isinstance(value, list):
        to.append("[")
        for item in value:
            if not isinstance(item, ast.AST):
                to.append(f"({item!r})")
            elif not _is_meaningless(item, in_function):
                _write(item, in_function, to)
        to.append("]")
    elif isinstance(value, ast.AST):
        _write(value, in_function, to)
    else:
        to.append(repr(value))


def _is_meaningless(node: ast.AST, in_function: bool) -> bool:
    if in_function and isinstance(node, ast.AnnAssign) and node.value is None:
        return True
    if isinstance(node, ast.Pass) or (isinstance(node, ast.stmt) and is_bare_string(node)):
        return True
    if isinstance(node, ast.Import):
        return all(alias.name.split(".")[0] == PACKAGE for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE
