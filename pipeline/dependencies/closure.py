"""The code that decides a result: what its entry functions reach, definition by definition, and what each part means.

From an entry the walk follows every name that a function, class or constant uses to the definition of it, through the
imports of this package, imports inside functions included. A file is counted by those of its definitions that are
reached: a new class in it, or another method's function, changes nothing.

The walk stops at what decides nothing: a package, module or class that says so by a constant

    DECIDES_NOTHING = "why"

Tracking, storage of checkpoints, Ray and the console do; what they import alone does not count either.
"""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.dependencies.meaning import PACKAGE, is_bare_string, meaning

MARK = "DECIDES_NOTHING"
_MAY_BE_RELATIVE = re.compile(r"\bfrom[\s\\]*\.")
_LATER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_LIKE_A_FILE = re.compile(r"[\w-]+\.\w+")


@dataclass(frozen=True, order=True)
class Target:
    """What a name means. module: dotted; name: a definition in it, or None for the module itself."""

    module: str
    name: str | None = None


@dataclass
class Module:
    """One parsed file: where each of its names is bound, and what runs when it is imported.

    Attributes:
        name: dotted.
        path: of the file.
        bindings: the statements that bind a name at the top level.
        imports: what a name imported from this package means.
        effects: statements that bind nothing and run at import.
        problem: True where the file is no valid Python, so that only its bytes can be compared.
    """

    name: str
    path: Path
    bindings: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Target] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)
    problem: bool = False

    @property
    def decides_nothing(self) -> bool:
        """Whether the module says so of itself."""
        return MARK in self.bindings


@dataclass(frozen=True)
class _Step:
    """further: the targets that one leads to; statements: its own, by their places in the file."""

    further: list[Target]
    statements: dict[tuple[int, int], ast.stmt]


class Closure:
    """The definitions that entries reach in the package below ``root``; parses every file once.

    Args:
        root: the folder that holds the package.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, Module | None] = {}
        self._steps: dict[Target, _Step | None] = {}
        self._uses: dict[tuple[str, int], list[Target]] = {}
        self._meanings: dict[int, str] = {}
        self._strings: dict[int, set[str]] = {}
        self._files_named: dict[int, list[Path]] = {}

    def files(self, entries: Iterable[str]) -> dict[str, str]:
        """Return the files that decide a result, each with the hash of what is reached in it.

        Args:
            entries: "package.module:function", or "package.module" for all of a module.

        Returns:
            sha256 by path below ``root``, for Python files and for the files beside them that they name.
        """
        reached = self._reached(entries)
        found: dict[str, str] = {}
        for name, statements in sorted(reached.items()):
            module = self.module(name)
            assert module is not None
            texts = [module.path.read_text()] if module.problem else [self._meaning(node) for node in statements]
            if texts:
                found[self._relative(module.path)] = _digest("\n".join(texts))
            for beside in {path for node in statements for path in self._beside(module, node)}:
                found[self._relative(beside)] = hashlib.sha256(beside.read_bytes()).hexdigest()
        return found

    def names(self, entries: Iterable[str]) -> dict[str, set[str]]:
        """Return what is reached, as the names of definitions by module; the entries are as for ``files``."""
        return {
            name: {each for node in nodes for each in _bound(node)} for name, nodes in self._reached(entries).items()
        }

    def module(self, name: str) -> Module | None:
        """Return the parsed module of that dotted name, or None where the package has no such file."""
        if name not in self._modules:
            path = self._file(name)
            self._modules[name] = None if path is None else _parsed(name, path, self.root)
        return self._modules[name]

    def _file(self, name: str) -> Path | None:
        base = self.root.joinpath(*name.split("."))
        return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _meaning(self, node: ast.stmt) -> str:
        if id(node) not in self._meanings:
            self._meanings[id(node)] = meaning(node)
        return self._meanings[id(node)]

    def _beside(self, module: Module, node: ast.stmt) -> list[Path]:
        if id(node) not in self._files_named:
            self._files_named[id(node)] = _files_beside(module.path, self._texts(node))
        return self._files_named[id(node)]

    def _texts(self, node: ast.stmt) -> set[str]:
        if id(node) not in self._strings:
            self._strings[id(node)] = _texts_in(ast.walk(node))
        return self._strings[id(node)]

    def _reached(self, entries: Iterable[str]) -> dict[str, list[ast.stmt]]:
        """Return the reached statements by module, in the order of the file."""
        waiting = [Target(module, name or None) for module, _, name in (entry.partition(":") for entry in entries)]
        for target in waiting:
            if self.module(target.module) is None:
                raise LookupError(f"{target.module}: no such module")
        seen: set[Target] = set()
        statements: dict[str, dict[tuple[int, int], ast.stmt]] = {}
        while waiting:
            target = waiting.pop()
            if target in seen:
                continue
            seen.add(target)
            step = self._step(target)
            if step is not None:
                waiting += step.further
                statements.setdefault(target.module, {}).update(step.statements)
        return {name: [nodes[place] for place in sorted(nodes)] for name, nodes in statements.items()}

    def _step(self, target: Target) -> _Step | None:
        """Return what a target leads to at once, the same from whatever entry; None: it counts for nothing."""
        if target not in self._steps:
            self._steps[target] = self._new_step(target)
        return self._steps[target]

    def _new_step(self, target: Target) -> _Step | None:
        module = self.module(target.module)
        if module is None or self._is_exempt(target, module):
            return None
        further = [Target(parent, "") for parent in _parents(target.module)]  # their import runs too
        chosen = list(module.effects)
        if target.name is None:
            further += [Target(target.module, name) for name in {*module.bindings, *module.imports}]
        elif target.name in module.imports:
            further.append(module.imports[target.name])
        elif target.name in module.bindings:
            chosen += module.bindings[target.name]
        elif target.name:
            further.append(Target(f"{target.module}.{target.name}"))  # a module of a package
        for node in chosen:
            further += self._used(module, node)
        return _Step(list(dict.fromkeys(further)), {(node.lineno, node.col_offset): node for node in chosen})

    def _is_exempt(self, target: Target, module: Module) -> bool:
        around = [self.module(name) for name in (target.module, *_parents(target.module))]
        if any(found is not None and found.decides_nothing for found in around):
            return True
        nodes = module.bindings.get(target.name or "", [])
        return any(isinstance(node, ast.ClassDef) and _says_so(node) for node in nodes)

    def _used(self, module: Module, node: ast.stmt) -> list[Target]:
        """Return what a statement refers to: definitions of its module, and what is imported."""
        key = (module.name, id(node))
        if key not in self._uses:
            inside = list(ast.walk(node))
            self._strings[id(node)] = _texts_in(inside)
            inner = dict(_imports_in(inside, self.root))
            known, names = module.imports | inner, list(_names(node))
            found = [target for name, attribute in names if (target := _resolved(name, attribute, known, module))]
            if any(name == PACKAGE for name, _ in names):  # ``import pipeline.a.b``, then ``pipeline.a.b.c``
                found += [target for name, target in known.items() if "." in name]
            self._uses[key] = found + _named_modules(self._strings[id(node)], self.root)
        return self._uses[key]

    @cached_property
    def exempt(self) -> Mapping[str, str]:
        """The reason by module, of each module of the package that decides nothing."""
        found = {}
        for path in sorted((self.root / PACKAGE).rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            module = self.module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
            if module and module.decides_nothing:
                value = getattr(module.bindings[MARK][0], "value", None)
                found[module.name] = str(value.value) if isinstance(value, ast.Constant) else ""
        return found


def _parsed(name: str, path: Path, root: Path) -> Module:
    module = Module(name, path)
    try:
        text = path.read_text()
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        module.problem = True
        return module
    if _MAY_BE_RELATIVE.search(text):
        _make_absolute(tree, name if path.name == "__init__.py" else name.rpartition(".")[0])
    for node in tree.body:
        if is_bare_string(node) or _is_guard(node):
            continue
        running = list(_at_import(node))
        module.imports |= dict(_imports_in(running, root))
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        bound, changed = set(_bound(node, running)), set(_changed(running))
        for each in bound | changed:
            module.bindings.setdefault(each, []).append(node)
        if not bound:
            module.effects.append(node)
    known = {*module.bindings, *module.imports}
    module.effects += [node for node in tree.body if _registers(node, known)]
    return module


def _make_absolute(tree: ast.Module, package: str) -> None:
    """Write relative imports out, in place."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            around = package.split(".")[: len(package.split(".")) - (node.level - 1)]
            node.module, node.level = ".".join([*around, *([node.module] if node.module else [])]), 0


def _registers(node: ast.stmt, known: set[str]) -> bool:
    """Tell whether a decorator of this package may register a definition, which is then used without its name."""
    decorators = getattr(node, "decorator_list", [])
    return any(isinstance(part, ast.Name) and part.id in known for each in decorators for part in ast.walk(each))


def _texts_in(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def _named_modules(texts: set[str], root: Path) -> list[Target]:
    """Return the modules of the package that a statement names by a string, as importlib takes them."""
    names = [text for text in sorted(texts) if text.startswith(f"{PACKAGE}.") and text.replace(".", "").isidentifier()]
    return [Target(name) for name in names if root.joinpath(*name.split(".")).with_suffix(".py").is_file()]


def _is_guard(node: ast.stmt) -> bool:
    """Tell whether a block is for type checkers alone, or for a script that is started by name."""
    if not isinstance(node, ast.If):
        return False
    names = {found.id for found in ast.walk(node.test) if isinstance(found, ast.Name)}
    return bool(names & {"TYPE_CHECKING", "__name__"})


def _at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk over what runs when the module is imported: not into functions."""
    waiting = [node]
    while waiting:
        found = waiting.pop()
        yield found
        inside = [each for each in ast.iter_child_nodes(found) if not isinstance(each, _LATER)]
        waiting += reversed(inside)


def _bound(node: ast.stmt, running: Iterable[ast.AST] | None = None) -> Iterator[str]:
    """Name what a top-level statement defines, in the branches of an if or try too; running: ``_at_import`` of it."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    for found in _at_import(node) if running is None else running:
        if isinstance(found, ast.ClassDef):
            yield found.name
        elif isinstance(found, ast.Name) and isinstance(found.ctx, ast.Store):
            yield found.id
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child.name


def _changed(running: Iterable[ast.AST]) -> Iterator[str]:
    """Name what a top-level statement changes without binding it: ``table[key] = value`` is a part of ``table``."""
    for found in running:
        if isinstance(found, ast.Attribute | ast.Subscript) and isinstance(found.ctx, ast.Store):
            yield from (inner.id for inner in ast.walk(found.value) if isinstance(inner, ast.Name))


def _imports_in(nodes: Iterable[ast.AST], root: Path) -> Iterator[tuple[str, Target]]:
    """Yield what the names mean that are imported from this package."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == PACKAGE:
                    yield alias.asname or alias.name, Target(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            for alias in node.names:
                yield alias.asname or alias.name, _meant(str(node.module), alias.name, root)


def _meant(module: str, name: str, root: Path) -> Target:
    """Return the module ``module.name`` if there is one, else the name in ``module``."""
    base = root.joinpath(*module.split("."), name)
    if base.with_suffix(".py").is_file() or (base / "__init__.py").is_file():
        return Target(f"{module}.{name}")
    return Target(module, None if name == "*" else name)


def _names(node: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Yield each name that is read, with the attribute asked of it where that is all that is done with it."""
    waiting: list[ast.AST] = [node]
    while waiting:
        found = waiting.pop()
        if isinstance(found, ast.Attribute) and isinstance(found.value, ast.Name):
            yield found.value.id, found.attr
        elif isinstance(found, ast.Name):
            yield found.id, None
        else:
            waiting += ast.iter_child_nodes(found)


def _resolved(name: str, attribute: str | None, known: Mapping[str, Target], module: Module) -> Target | None:
    target = known.get(name)
    if target is None:
        return Target(module.name, name) if name in module.bindings else None
    return Target(target.module, attribute) if target.name is None else target


def _says_so(node: ast.ClassDef) -> bool:
    return any(MARK in set(_bound(inner)) for inner in node.body if isinstance(inner, ast.Assign | ast.AnnAssign))


def _parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _files_beside(path: Path, texts: set[str]) -> list[Path]:
    """Return the files of the module's folder that a statement names by a string, such as a page's template."""
    found = [path.with_name(text) for text in texts if _LIKE_A_FILE.fullmatch(text) and not text.endswith(".py")]
    return sorted(file for file in found if file.is_file())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
