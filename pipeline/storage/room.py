"""How much memory this process may still take: of the machine, and of the control groups that it is in."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that can be taken before anything is killed or swapped.

    Args:
        root: where /proc and /sys are.

    Returns:
        The least of what the machine and each control group (of either version) has left, what the kernel would give
        back of its file caches included; None where the system does not tell (macOS).
    """
    found = [*_of_machine(root), *_of_groups(root)]
    return min(found) if found else None


def _of_machine(root: Path) -> Iterator[int]:
    sizes = _table(root / "proc/meminfo")
    if "MemAvailable:" in sizes:
        yield sizes["MemAvailable:"] * 1024


def _of_groups(root: Path) -> Iterator[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage, cached = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, cached = "sys/fs/cgroup/memory", "total_inactive_file"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):  # a group has no more than those around it
            folder = root / base / str(group).lstrip("/")
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None and used is not None:
                yield max(0, most - used + _table(folder / "memory.stat").get(cached, 0))


def _number(file: Path) -> int | None:
    """Return the number in a file; None if there is no such file, or no number ("max") in it."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _table(file: Path) -> dict[str, int]:
    """Return the numbers of a file of lines that begin with a name and a number."""
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
