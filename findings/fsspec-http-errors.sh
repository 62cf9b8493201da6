#!/usr/bin/env bash
# fsspec 2026.9.0 with aiohttp 3.14.5: over HTTP, a server that is busy is a file that does not exist, and a body that
# is cut short is a whole one.
#
# Expected of `fs.info(url)`: FileNotFoundError where the server answers 404, another error where it answers 503 or does
# not answer. Expected of `fs.get_file(url, path)`: an error where the connection ends before the file does. Expected of
# `fs.cat_file(url, start, end)`: the bytes from start to end, or an error.
#
# What happens:
#   - 404, 503 and a refused connection all raise FileNotFoundError from `info`; only its __cause__ tells them apart.
#     A loop that skips what is not found skips data that exists whenever a server is busy.
#   - Without a Content-Length (HTTP/1.0, or "Connection: close"), which the protocol allows, a body that ends early is
#     taken as complete: `get_file` leaves the shorter file and raises nothing.
#   - A server that does not know ranges answers a range with the whole file (200), which is allowed too, and `cat_file`
#     returns all of it instead of the bytes asked for.
#
# Whom it hurts: who fetches data sets and weights with fsspec from plain servers. What helps: look at __cause__, check
# sizes and hashes of what has arrived, and the length of a range.
#
# Seen on 2026-11-28:
#   info: 404 -> FileNotFoundError, 503 -> FileNotFoundError, refused -> FileNotFoundError
#   get_file of a body that ends at 600 of 1000 bytes, no Content-Length: 600 bytes, no error
#   cat_file(start=10, end=20) without ranges: 1000 bytes
#
# Exits 0 if it is still so, 1 if it has changed. Talks to this machine alone once the packages are installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check fsspec==2026.9.0 aiohttp==3.14.5
timeout 60 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec

CONTENT = bytes(range(250)) * 4


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: the end of the connection is the end of the body."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        status = {"/missing": 404, "/busy": 503}.get(self.path, 200)
        self.send_response(status)
        if self.path == "/whole":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if body and status == 200:
            self.wfile.write(CONTENT[:600] if self.path == "/short" else CONTENT)

    def log_message(self, *arguments):
        pass


def error_of(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return type(error).__name__
    return "none"


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
closed = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
nobody = f"http://127.0.0.1:{closed.server_port}/x"
closed.server_close()
files = fsspec.filesystem("http")

errors = {name: error_of(files.info, where) for name, where in
          {"404": f"{url}/missing", "503": f"{url}/busy", "refused": nobody}.items()}
print("info:", ", ".join(f"{name} -> {error}" for name, error in errors.items()))

target = Path(sys.argv[1], "short")
problem = error_of(files.get_file, f"{url}/short", str(target))
size = target.stat().st_size if target.exists() else 0
print(f"get_file of a body that ends at 600 of 1000 bytes, no Content-Length: {size} bytes, error {problem}")

part = len(files.cat_file(f"{url}/whole", start=10, end=20))
print(f"cat_file(start=10, end=20) without ranges: {part} bytes")

as_stated = set(errors.values()) == {"FileNotFoundError"} and (size, problem) == (600, "none") and part == len(CONTENT)
sys.exit(0 if as_stated else "changed: see the lines above")
PYTHON
