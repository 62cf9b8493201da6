"""The house's rules, read from the code: import directions, Ray and MLflow at one door each, declared dependencies."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIPELINE = ROOT / "pipeline"

# A room imports from itself and from rooms before it; the helpers may be imported by anyone but core.
ROOMS = [
    "core",
    "data",
    "nets",
    "ingest",
    "families",
    "methods",
    "inference",
    "evaluate",
    "watch",
    "render",
    "tracking",
    "storage",
    "dependencies",
    "training",
    "cluster",
    "tune",
    "stages",
    "commands",
    "__main__",
]
HELPERS = {"errors", "files", "config", "console", "registry", "session", "pipeline"}


def modules() -> list[Path]:
    return sorted(path for path in PIPELINE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every absolute module name that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def place(module: str) -> str:
    """pipeline.nets.dcgan -> nets; pipeline -> pipeline."""
    return [*module.split("."), "pipeline"][1]


def own_place(path: Path) -> str:
    relative = path.relative_to(PIPELINE)
    return (
        relative.parts[0].removesuffix(".py")
        if relative.name != "__init__.py" or len(relative.parts) > 1
        else "pipeline"
    )


def layer(name: str) -> int:
    return ROOMS.index(name)


def resolved(module: str) -> Path | None:
    """The file of a module of this package; None for a name inside a module."""
    base = ROOT.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def internal(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] == "pipeline" and resolved(name)}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    own = own_place(path)
    for name in internal(path):
        target = place(name)
        if target == own:
            continue
        if target in HELPERS:
            assert own != "core", f"{path} is core and imports {name}"
        else:
            assert own not in HELPERS and layer(target) <= layer(own), f"{path} imports {name}"


def test_methods_never_import_each_other() -> None:
    for path in (PIPELINE / "methods").glob("*.py"):
        assert not {name for name in internal(path) if name.startswith("pipeline.methods.")}, path


@pytest.mark.parametrize(
    ("package", "doors"),
    [
        ("ray", {"cluster", "tune"}),
        ("optuna", {"tune"}),
        ("mlflow", {"tracking"}),
        ("dvc", set()),
        ("pydantic", {"config"}),
    ],
)
def test_a_tool_has_one_door(package: str, doors: set[str]) -> None:
    found = {own_place(path) for path in modules() if any(name.split(".")[0] == package for name in imports(path))}
    assert found == doors


def test_core_is_pure_torch() -> None:
    allowed = {"torch", "numpy", "pipeline", *sys.stdlib_module_names}
    forbidden = {"pathlib", "os", "io", "shutil", "tempfile", "subprocess"}
    for path in (PIPELINE / "core").glob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert roots <= allowed and not roots & forbidden, path


def reached(*starts: Path) -> set[Path]:
    """Every file of this package that the given ones import, packages' __init__ included."""
    found: set[Path] = set()
    waiting = list(starts)
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += [file for name in internal(path) if (file := resolved(name))]
        inits = [parent / "__init__.py" for parent in path.parents if PIPELINE in [parent, *parent.parents]]
        waiting += [init for init in inits if init.exists()]
    return found


def test_every_folder_is_a_room_in_the_order() -> None:
    folders = {path.parent.name for path in PIPELINE.glob("*/__init__.py")}
    assert folders == set(ROOMS) - {"__main__"} | {"config", "session"}
    loose = {path.stem for path in PIPELINE.glob("*.py")} - {"__init__"}
    assert loose == HELPERS - {"pipeline", "config", "session"} | {"__main__"} and len(loose) <= 5


def test_files_functions_and_dvc_yaml_can_be_read() -> None:
    for path in modules():
        assert len(path.read_text().splitlines()) <= 450, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= 50, f"{path}: {node.name} has {lines} lines, its docstring included"
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 115


@pytest.mark.parametrize(
    "name", ["pipeline", *(f"pipeline.stages.{path.stem}" for path in (PIPELINE / "stages").glob("*.py"))]
)
def test_importing_a_stage_loads_nothing_heavy(name: str) -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'sklearn', 'matplotlib', 'pandas', 'torchvision'}"
    check = (
        f"import sys, {name}; sys.exit(str(sorted({heavy} & set(sys.modules))) if {heavy} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
