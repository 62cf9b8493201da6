#!/usr/bin/env bash
# A WebDataset shard with one damaged header, or cut within a header, gives fewer samples and no error.
#
# Software:  webdataset 1.0.2, and Python's tarfile on which it is built (seen with Python 3.11.7).
# Expected:  a tar archive with a damaged header in its middle, and one that ends within a header, are refused, as GNU
#            tar refuses the damaged one ("Skipping to next header", exit 2).
# Happens:   tarfile takes a header whose checksum is wrong, or that is cut, for the end of the archive, unless it is the
#            first one. Iterating ends without an exception, with mode "r:" as with "r|". WebDataset yields the samples
#            before it and goes on to the next shard.
# Seen:      100 samples   whole: 200 members, 100 samples
#            one bit of the header of the 51st sample flipped: 100 members, 50 samples, no error
#            cut in the header of the 51st sample: 100 members, 50 samples, no error
# Matters:   one flipped bit, or a copy that was interrupted, takes any part of a shard out of the training data. The loss
#            curves look as always, and nothing says that half of the data are missing.
# Instead:   keep a hash of each shard and compare it; or, after iterating with tarfile, read the 512 bytes at
#            archive.offset: they are zeros, or none are left, if the archive has really ended.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"${PYTHON:-python3}" -m venv "$work/venv"
timeout --foreground 600 "$work/venv/bin/pip" install --quiet webdataset==1.0.2 ||
  { echo "cannot install the packages"; exit 2; }

cat > "$work/probe.py" <<'PY'
"""Damage a shard in two ways, and count what tarfile and webdataset find in it."""

import io
import sys
import tarfile
from pathlib import Path

import webdataset

COUNT, DAMAGED = 100, 50
folder = Path(sys.argv[1])


def shard():
    """Return a shard of COUNT samples of two files each."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(COUNT):
            for suffix, content in (("txt", b"x" * 700), ("cls", b"1")):
                member = tarfile.TarInfo(f"{number:03}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


whole = shard()
header = whole.index(f"{DAMAGED:03}.txt".encode())
flipped = bytearray(whole)
flipped[header + 150] ^= 1  # in the header's checksum
shards = {"whole": whole, "flipped": bytes(flipped), "cut": whole[: header + 100]}
seen = {}
for name, content in shards.items():
    path = folder / f"{name}.tar"
    path.write_bytes(content)
    members = {mode: len(tarfile.open(path, mode).getnames()) for mode in ("r:", "r|")}
    samples = sum(1 for _ in webdataset.WebDataset(str(path), shardshuffle=False))
    seen[name] = (members["r:"], members["r|"], samples)
    print(f"{name:8} {members['r:']} members, {samples} samples")
expected = {
    "whole": (2 * COUNT, 2 * COUNT, COUNT),
    "flipped": (2 * DAMAGED, 2 * DAMAGED, DAMAGED),
    "cut": (2 * DAMAGED, 2 * DAMAGED, DAMAGED),
}
if seen != expected:
    sys.exit("CHANGED: a damaged shard is no longer read as described")
print("As described: a damaged shard ends early, without an error.")
PY
code=0
timeout --foreground 120 "$work/venv/bin/python" "$work/probe.py" "$work" || code=$?
if ((code == 124)); then echo "CHANGED: the probe did not end within 120 seconds"; fi
exit $((code == 0 ? 0 : 1))
