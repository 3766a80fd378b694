"""Runs a command and prints, on standard error, its seconds and its largest anonymous memory in MB, which does not count
mapped files (Linux):

    python tools/loading/memory.py COMMAND …
"""

import subprocess
import sys
import threading
import time


def anonymous(process: int) -> int:
    """RssAnon in kB; 0 if the process has ended."""
    try:
        with open(f"/proc/{process}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("RssAnon")), 0)
    except OSError:
        return 0


def main() -> int:
    start = time.monotonic()
    child = subprocess.Popen(sys.argv[1:])
    largest, done = 0, threading.Event()

    def watch() -> None:
        nonlocal largest
        while not done.wait(0.01):
            largest = max(largest, anonymous(child.pid))

    thread = threading.Thread(target=watch)
    thread.start()
    code = child.wait()
    done.set()
    thread.join()
    print(f"{time.monotonic() - start:.2f} s, {largest / 1024:.0f} MB anonymous", file=sys.stderr)
    return code


sys.exit(main())
