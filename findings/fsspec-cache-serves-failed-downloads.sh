#!/usr/bin/env bash
# fsspec's disk caches serve the remains of a failed download as the file.
#
# Software:  fsspec 2026.9.0, aiohttp 3.14.5.
# Expected:  a download that raised an error leaves nothing behind that counts: the next read fetches the data again
#            and returns the right bytes or an error.
# Happens:   simplecache:: and filecache:: keep the incomplete file and take it for complete: every later read returns
#            the first part of the data, without an error and without asking the server. blockcache:: and
#            cache_type="mmap" mark the blocks as fetched before they are: every later read returns zero bytes of the
#            right length. The in-memory caches (cache_type="bytes", "readahead") do fetch again.
# Seen:      the server cuts the transfers of a file of 100000 bytes short, then works again (requests: those that
#            the 2nd read made):
#            simplecache        1st read ClientPayloadError, 2nd read 50000 of 100000 bytes, requests: 0
#            filecache          1st read ClientPayloadError, 2nd read 50000 of 100000 bytes, requests: 0
#            blockcache         1st read TypeError, 2nd read 100000 bytes, all but the last zero, requests: 0
#            mmap, same handle  1st read ClientPayloadError, 2nd read 3000 bytes, all zero, requests: 0
#            bytes, same handle 1st read ClientPayloadError, 2nd read right, requests: 1
#            (blockcache's TypeError is the error of the transfer, taken for data.)
# Matters:   these caches are the usual way to read remote data sets (fsspec.open, pandas, xarray, zarr, torch loaders).
#            A job that retries on errors, or that its scheduler restarts after one, goes on with truncated shards or
#            with zeros as training data; nothing is logged, and the cache folder keeps serving them to later jobs.
# Instead:   download to a temporary name with fs.get_file(), compare the size with fs.info()["size"] (better: a
#            checksum), then os.replace() it into the place; or, on any error from a cached read, delete the cache
#            folder before the next try. Never retry on a handle with cache_type="mmap": open the file anew.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"${PYTHON:-python3}" -m venv "$work/venv"
timeout --foreground 600 "$work/venv/bin/pip" install --quiet fsspec==2026.9.0 aiohttp==3.14.5 ||
  { echo "cannot install the packages"; exit 2; }

cat > "$work/probe.py" <<'PY'
"""Read a file through fsspec's caches while its server cuts transfers short, and again when it works."""

import re
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec

BODY = bytes(range(1, 251)) * 400  # no zero byte in it


class Handler(BaseHTTPRequestHandler):
    """Serve BODY with ranges; while `cutting`, close the connection after half of what was announced."""

    protocol_version = "HTTP/1.1"
    cutting = False
    gets = 0

    def do_GET(self):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2]), len(BODY) - 1)) if wanted else (0, len(BODY) - 1)
        data = BODY[first : last + 1]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(BODY)}")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return
        Handler.gets += 1
        if Handler.cutting:
            data = data[: len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


def described(read, right):
    """Return what `read` gives, in words."""
    try:
        data = read()
    except Exception as error:
        return type(error).__name__
    if data == right:
        return "right"
    if not any(data):
        return f"{len(data)} bytes, all zero"
    if not any(data[:-1]):
        return f"{len(data)} bytes, all but the last zero"
    return f"{len(data)} of {len(right)} bytes" if right.startswith(data) else f"{len(data)} wrong bytes"


def twice(read, right):
    """Read while the server cuts transfers, then when it works; return both results and the second's requests."""
    Handler.cutting = True
    first = described(read, right)
    Handler.cutting = False
    before = Handler.gets
    return first, described(read, right), Handler.gets - before


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"

seen = {}
for cache in ("simplecache", "filecache", "blockcache"):
    with tempfile.TemporaryDirectory() as folder:

        def read_all(url=f"{cache}::{base}/{cache}", options={cache: {"cache_storage": folder}}):
            with fsspec.open(url, **options) as file:
                return file.read()

        seen[cache] = twice(read_all, BODY)
for cache_type in ("mmap", "bytes"):
    with fsspec.open(f"{base}/{cache_type}", cache_type=cache_type, block_size=1000) as file:

        def read_start(file=file):
            file.seek(0)
            return file.read(3000)

        seen[f"{cache_type}, same handle"] = twice(read_start, BODY[:3000])

for name, (first, second, requests) in seen.items():
    print(f"{name:19}1st read {first}, 2nd read {second}, requests: {requests}")
expected = {
    "simplecache": ("ClientPayloadError", "50000 of 100000 bytes", 0),
    "filecache": ("ClientPayloadError", "50000 of 100000 bytes", 0),
    "blockcache": ("TypeError", "100000 bytes, all but the last zero", 0),
    "mmap, same handle": ("ClientPayloadError", "3000 bytes, all zero", 0),
    "bytes, same handle": ("ClientPayloadError", "right", 1),
}
if seen != expected:
    sys.exit("CHANGED: fsspec's caches no longer behave as described after a failed download")
print("As described: what a failed download left in the cache is served as the file.")
PY
code=0
HOME="$work" TMPDIR="$work" timeout --foreground 120 "$work/venv/bin/python" "$work/probe.py" || code=$?
if ((code == 124)); then echo "CHANGED: the probe did not end within 120 seconds"; fi
exit $((code == 0 ? 0 : 1))
