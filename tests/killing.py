"""Work that is killed, or interrupted, at a chosen line of chosen files or at a chosen moment.

For programs without other threads, because only those can be forked safely.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore


def _stop_at_line(number, files, stop):
    """Calls ``stop`` at the ``number``-th line that runs in ``files``, from now on."""
    left = [number]
    names = {str(Path(file)) for file in files}

    def trace(frame, event, argument):
        if frame.f_code.co_filename not in names:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                stop()
        return trace

    sys.settrace(trace)


def killed_at_line(number, files, work):
    """Runs ``work`` in a child that kills itself there; True if it came to its end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    _stop_at_line(number, files, lambda: os.kill(os.getpid(), signal.SIGKILL))
    work()
    sys.settrace(None)
    os._exit(0)


def interrupted_at_line(number, files, work):
    """The same with a KeyboardInterrupt in this process, which runs every ``finally`` on its way out."""

    def stop():
        sys.settrace(None)
        raise KeyboardInterrupt

    _stop_at_line(number, files, stop)
    try:
        work()
    except KeyboardInterrupt:
        return False
    finally:
        sys.settrace(None)
    return True


def killed_after(seconds, work):
    """The same with a SIGKILL from outside."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == 0


def tally(trials):
    """Counts of ``(a store was there before, ran to its end, what was left, nothing but the store is left)``."""
    count = {"trials": 0, "killed": 0, "silently wrong": 0, "lost": 0, "left behind": 0, "seen": {}}
    for before, done, seen, clean in trials:
        count["trials"] += 1
        count["killed"] += not done
        count["silently wrong"] += seen not in {"old", "new", "none"}
        count["lost"] += before and seen == "none"
        count["left behind"] += not clean
        count["seen"][seen] = count["seen"].get(seen, 0) + 1
    return count


def seen_by_a_reader(directory, known):
    """The name in ``known`` for the fingerprint of what opens, "none" where nothing does, "wrong" for any other."""
    try:
        found = ReferenceStore.open(directory, verify=True)
    except StoreError:
        return "none"
    content = ReferenceStore.from_arrays(found.features, found.losses, found.labels).fingerprint
    return known.get(content, "wrong")
