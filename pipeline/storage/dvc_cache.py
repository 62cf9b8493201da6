"""Where DVC keeps a file that it has taken into its cache."""

import subprocess
import sys
from functools import cache
from pathlib import Path

from pipeline.files import atomic_file
from pipeline.session import client


def in_cache(md5: str) -> Path | None:
    """Find a file in DVC's cache. Nothing is checked: whoever takes a file from there compares its hash.

    Args:
        md5: hex MD5 of the file's bytes, which is DVC's name for it.

    Returns:
        The file; None where the cache has none or the project is not under DVC.
    """
    folder = _folder()
    file = folder / "files" / "md5" / md5[:2] / md5[2:] if folder else None
    return file if file and file.is_file() else None


@cache
def _folder() -> Path | None:
    """Ask DVC once for all stages of a `dvc repro`: the answer costs most of a second."""
    shared = client.folder()
    kept = shared / "cache-dir" if shared else None
    if kept and kept.exists():
        return Path(kept.read_text())
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True)
    line = done.stdout.strip()
    if done.returncode or not line:
        return None
    if kept:
        with atomic_file(kept) as temporary:
            temporary.write_text(line)
    return Path(line)
