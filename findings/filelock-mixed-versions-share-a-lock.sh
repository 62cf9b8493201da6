#!/usr/bin/env bash
# Two processes with different versions of filelock hold the same lock at the same time.
#
# Software:  filelock 3.20.3 together with filelock 3.25.2 (control: 4.2.11), on Linux.
# Expected:  FileLock(path) is one lock for all processes that name the path, whichever version they import.
# Happens:   3.25.2 deletes the lock file when it releases the lock; 3.20.3 keeps it and does not check, once it has
#            the lock, that the file is still the one the path names. A 3.20.3 process that opened the file just before
#            the other one deleted it locks a file without a name; the next process creates a new file under the path
#            and locks that. Both are inside. Moreover acquire() of 3.20.3 raises FileNotFoundError now and then, as
#            the file vanishes between its look and its open. Each version by itself excludes correctly, and so does
#            4.2.11, which keeps the file and checks it, together with either.
# Seen:      (two processes for 10 seconds, each taking the lock, staying inside for half a millisecond, releasing it)
#            3.20.3 with 3.20.3   taken  14946 times, two inside     0 times, FileNotFoundError   0 times
#            3.25.2 with 3.25.2   taken  15116 times, two inside     0 times, FileNotFoundError   0 times
#            3.20.3 with 4.2.11   taken  15563 times, two inside     0 times, FileNotFoundError   0 times
#            3.25.2 with 4.2.11   taken  14069 times, two inside     0 times, FileNotFoundError   0 times
#            3.20.3 with 3.25.2   taken  14908 times, two inside   234 times, FileNotFoundError   0 times
#            3.20.3 with 3.25.2   taken  12104 times, two inside   525 times, FileNotFoundError 136 times (another run)
#            (one process wrongly inside can be met many times)
# Matters:   libraries such as torch, ray, datasets or a training script guard downloads, caches and checkpoints on a
#            shared disk with filelock. A cluster often mixes virtual environments (an older image, a notebook, the
#            new job); then two jobs write the same cache or checkpoint at once, rarely and without a message.
# Instead:   use one version of filelock wherever a lock is shared, and none that deletes the file next to one that
#            does not expect it: upgrade all environments to a release that keeps the file and checks it (4.2.11
#            does). Do not delete lock files by hand or by cron job, for the same reason.
#            Who comes first is a matter of chance: the script tries up to three times.
#
# Exit code: 0 the behaviour is as stated; 1 it has changed; 2 the packages could not be installed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for version in 3.20.3 3.25.2 4.2.11; do
  "${PYTHON:-python3}" -m venv "$work/$version"
  timeout --foreground 300 "$work/$version/bin/pip" install --quiet "filelock==$version" ||
    { echo "cannot install the packages"; exit 2; }
done

cat > "$work/worker.py" <<'PY'
"""Take the lock over and over for some seconds; count the times another process was inside as well."""

import os
import sys
import time

import filelock

folder, seconds = sys.argv[1], float(sys.argv[2])
inside = os.path.join(folder, "inside")
lock = filelock.FileLock(os.path.join(folder, "shared.lock"))
taken = together = vanished = 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        continue
    except FileNotFoundError:
        vanished += 1
        continue
    taken += 1
    try:
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        together += 1
        time.sleep(0.0005)
    else:
        time.sleep(0.0005)
        os.unlink(inside)
    lock.release()
print(taken, together, vanished)
PY

# try FIRST SECOND: let two versions compete; set together and vanished.
try() {
  local folder taken=0 pid worker line
  local pids=()
  folder=$(mktemp -d -p "$work")
  for worker in 1 2; do
    timeout 60 "$work/${!worker}/bin/python" "$work/worker.py" "$folder" 10 > "$folder/$worker.txt" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || { echo "CHANGED: a process failed"; exit 1; }; done
  together=0 vanished=0
  for worker in 1 2; do
    read -r -a line < "$folder/$worker.txt"
    taken=$((taken + line[0])) together=$((together + line[1])) vanished=$((vanished + line[2]))
  done
  printf '%-6s with %-8s taken %6d times, two inside %5d times, FileNotFoundError %3d times\n' \
    "$1" "$2" "$taken" "$together" "$vanished"
}

changed=0
for pair in '3.20.3 3.20.3' '3.25.2 3.25.2' '3.20.3 4.2.11' '3.25.2 4.2.11'; do
  # shellcheck disable=SC2086  # two versions
  try $pair
  if ((together)); then changed=1; fi
done
for _ in 1 2 3; do
  try 3.20.3 3.25.2
  if ((together)); then break; fi
done
if ((together == 0)); then changed=1; fi

if ((changed)); then echo "CHANGED: the versions of filelock no longer behave as described"; exit 1; fi
echo "As described: filelock 3.20.3 and 3.25.2 held the same lock at the same time."
