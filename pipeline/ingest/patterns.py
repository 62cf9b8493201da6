"""Patterns in ``data.path``: shards/train-{0000..0099}.tar, shards/*.tar, s3://bucket/photos/*.jpg.

A pattern stands for files at and below the folder that it begins with; * and ? match within one name, as in a shell. A
path that exists is no pattern, whatever characters are in it; neither is a ? in a URL.
"""

import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from pipeline.errors import UserError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 100_000  # names that braces may stand for


def split_pattern(path: str) -> tuple[str, str]:
    """Return the folder that a path begins with and the pattern in it; an empty pattern if it is none."""
    wild = re.compile(r"[*{]" if "://" in path else r"[*?\[{]")
    found = wild.search(path)
    if found is None:
        return path, ""
    end = path.rfind("/", 0, found.start()) + 1
    return path[: max(end - 1, 0)] or ("/" if end else "."), path[end:]


def expand_braces(pattern: str) -> list[str]:
    """Return what braces stand for: {a,b} for both, {00..10} for the numbers, with as many digits.

    Args:
        pattern: any text.

    Returns:
        The texts without braces.

    Raises:
        UserError: they stand for too many.
    """
    found = _BRACES.search(pattern)
    if found is None:
        return [pattern]
    numbers = _RANGE.fullmatch(found[1])
    inside: Iterable[str] = found[1].split(",")
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if not 0 <= last - first < _MOST:
            raise UserError(f"params.yaml: data.path: {{{found[1]}}} stands for no numbers, or for more than {_MOST}.")
        inside = (str(number).zfill(len(numbers[1])) for number in range(first, last + 1))
    return [
        whole for part in inside for whole in expand_braces(pattern[: found.start()] + part + pattern[found.end() :])
    ]


def matcher(pattern: str) -> Callable[[str], bool]:
    """Return a function that tells the relative paths that a pattern stands for."""
    wanted = [PurePosixPath(one).parts for one in expand_braces(pattern)]
    exact = {parts for parts in wanted if not any(set(part) & set("*?[") for part in parts)}
    wild = [parts for parts in wanted if parts not in exact]

    def matches(name: str) -> bool:
        parts = PurePosixPath(name).parts
        return parts in exact or any(len(one) == len(parts) and all(map(fnmatchcase, parts, one)) for one in wild)

    return matches


def refuse_missing(path: str, pattern: str, names: Iterable[str]) -> None:
    """Raise UserError if a part of a pattern stands for no file, as one shard of a range that is not there.

    Args:
        path: as data.path has it, for the message.
        pattern: see ``split_pattern``.
        names: relative paths of the files that it stands for.

    Raises:
        UserError: names the first part that is missing.
    """
    there = set(names)
    for one in expand_braces(pattern):
        if one not in there and not any(map(matcher(one), there)):
            raise UserError(f"params.yaml: data.path: no file is '{one}', which '{path}' stands for.")
