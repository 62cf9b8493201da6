#!/usr/bin/env bash
# fsspec's HTTP filesystem reports an unavailable server as a missing file, and ignores an ignored byte range.
#
# Software:  fsspec 2026.9.0, aiohttp 3.14.5.
# Expected:  FileNotFoundError and exists() == False mean that the server said the file is not there (404). A server
#            that is overloaded (503) or unreachable is an error of another kind. cat_file(url, start, end) returns
#            the bytes from start to end, as its documentation promises ("like usual python slices"), or fails.
# Happens:   (a) info(), size(), open() and fsspec.open() raise FileNotFoundError for a 503 answer and for a refused
#            connection as well; only __cause__ holds the real error. exists() and isfile() return False and glob()
#            returns an empty list, with no error at all. cat_file() and get_file() raise aiohttp's own error.
#            (b) when the server ignores the Range header, as HTTP allows, cat_file(url, start, end) and cat_ranges()
#            return the whole file without an error. open() followed by seek() notices and raises ValueError.
# Seen:      (shortened)
#            503      info and open FileNotFoundError, exists False, glob [], cat_file ClientResponseError
#            refused  info and open FileNotFoundError, exists False, glob [], cat_file ClientConnectorError
#            404      info and open FileNotFoundError, exists False, glob [], cat_file FileNotFoundError
#            no Range cat_file(10, 20) 100000 bytes, cat_ranges(10, 20) 100000 bytes, open+seek ValueError
# Matters:   data loaders commonly skip samples with `except FileNotFoundError: continue` or `if fs.exists(url)`. While
#            the server is overloaded, such a loader drops samples that exist: the run goes on with less data, looks
#            fine and cannot be reproduced. Code that reads records out of a shard with cat_file(start, end) gets
#            wrong bytes and downloads the whole shard for every record.
# Instead:   on FileNotFoundError look at the cause: skip only when error.__cause__ is None or its status is 404 or
#            410; treat anything else as a failure to be retried. Use cat_file() or get_file() rather than exists().
#            After a ranged cat_file() check that len(data) == end - start.
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
"""Ask a local server for files through fsspec and compare what comes back with what was seen on the day."""

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec

BODY = bytes(range(250)) * 400


class Handler(BaseHTTPRequestHandler):
    """Answer /whole with the whole file whatever the range, /busy with 503 and all else with 404."""

    def do_GET(self):
        status = {"/whole": 200, "/busy": 503}.get(self.path, 404)
        body = BODY if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


def outcome(call):
    """Return what `call` returns, or the name of the error it raises and of that error's cause."""
    try:
        return call()
    except Exception as error:
        cause = error.__cause__
        return type(error).__name__, type(cause).__name__ if cause else None


def read_from(fs, url, start, size):
    """Return `size` bytes of the file from `start` on, by way of open() and seek()."""
    with fs.open(url, block_size=1000) as file:
        file.seek(start)
        return file.read(size)


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
unused = socket.socket()  # bound but not listening: connections are refused
unused.bind(("127.0.0.1", 0))
refused = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
fs = fsspec.filesystem("http")

seen = {}
for name, url in (("503", f"{base}/busy"), ("refused", refused), ("404", f"{base}/absent")):
    seen[name] = {
        "info": outcome(lambda: fs.info(url))[0],
        "open": outcome(lambda: fs.open(url))[0],
        "fsspec.open": outcome(lambda: fsspec.open(url).open())[0],
        "cause": outcome(lambda: fs.info(url))[1],
        "exists": outcome(lambda: fs.exists(url)),
        "isfile": outcome(lambda: fs.isfile(url)),
        "glob": outcome(lambda: fs.glob(url)),
        "cat_file": outcome(lambda: fs.cat_file(url))[0],
    }
whole = f"{base}/whole"
seen["no Range"] = {
    "cat_file(10, 20)": outcome(lambda: len(fs.cat_file(whole, start=10, end=20))),
    "cat_ranges(10, 20)": outcome(lambda: len(fs.cat_ranges([whole], [10], [20])[0])),
    "open+seek": outcome(lambda: read_from(fs, whole, 10, 10))[0],
}
for name, results in seen.items():
    print(f"{name:9}" + ", ".join(f"{what} {result}" for what, result in results.items()))

absent = {"info": "FileNotFoundError", "open": "FileNotFoundError", "fsspec.open": "FileNotFoundError"}
absent |= {"exists": False, "isfile": False, "glob": []}
expected = {
    "503": absent | {"cause": "ClientResponseError", "cat_file": "ClientResponseError"},
    "refused": absent | {"cause": "ClientConnectorError", "cat_file": "ClientConnectorError"},
    "404": absent | {"cause": "ClientResponseError", "cat_file": "FileNotFoundError"},
    "no Range": {"cat_file(10, 20)": len(BODY), "cat_ranges(10, 20)": len(BODY), "open+seek": "ValueError"},
}
if seen != expected:
    sys.exit("CHANGED: fsspec's HTTP filesystem no longer behaves as described")
print("As described: an unavailable server looks like a missing file, and an ignored range goes unnoticed.")
PY
code=0
HOME="$work" timeout --foreground 120 "$work/venv/bin/python" "$work/probe.py" || code=$?
if ((code == 124)); then echo "CHANGED: the probe did not end within 120 seconds"; fi
exit $((code == 0 ? 0 : 1))
