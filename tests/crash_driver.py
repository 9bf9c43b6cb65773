"""Run as a program by test_store_crash: forks writers, kills them at a chosen line or moment, looks at what is left.

    python crash_driver.py MODE FAULT TRIALS     prints one line of JSON

A process of its own, because forking is safe only where no other thread runs.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore, atomic, writing

torch.set_num_threads(1)
MODE, FAULT, TRIALS = sys.argv[1], sys.argv[2], int(sys.argv[3])
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  (a kill cannot tell memory from a disk)
SHAPE = (50, 4) if MODE != "moments" else (60_000, 32)


def a_store(seed):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=SHAPE).astype("f2")
    return ReferenceStore.from_arrays(features, generator.random(SHAPE[0]), generator.integers(0, 9, SHAPE[0]))


TRACED = {Path(atomic.__file__), Path(writing.__file__), Path(__file__)}  # all that touches the disk
OLD, NEW = a_store(0), a_store(1)
KNOWN = {store.fingerprint: name for name, store in (("old", OLD), ("new", NEW))}


def plant(fault):
    """The mistakes that the tests are there to see."""
    if fault == "manifest first":

        def publish(directory, arrays, staged_manifest, name):
            staged_manifest.replace(directory / name)
            for array, staged in arrays.items():
                staged.replace(directory / array)

        atomic.publish = publish
    if fault == "in place":  # filled under its final name, below a manifest without checksums

        def save(self, path):
            path.mkdir(exist_ok=True)
            mapped = np.lib.format.open_memmap(path / "features.npy", "w+", self.features.dtype, SHAPE)
            for start in range(0, SHAPE[0], 10):
                mapped[start : start + 10] = self.features[start : start + 10]

        def opened(path, verify=None):
            try:
                return ReferenceStore.from_arrays(np.load(path / "features.npy", allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise StoreError(str(error)) from error

        ReferenceStore.save, ReferenceStore.open = save, staticmethod(opened)
        KNOWN.update({ReferenceStore.from_arrays(s.features).fingerprint: n for n, s in (("old", OLD), ("new", NEW))})


def look(directory):
    """ "old", "new" or "none" where that is what a reader gets; "wrong" for anything else that opens."""
    try:
        found = ReferenceStore.open(directory, verify=True)
    except StoreError:
        return "none"
    content = ReferenceStore.from_arrays(found.features, found.losses, found.labels).fingerprint
    return KNOWN.get(content, "wrong")


def killed_at_line(number, work):
    """Runs ``work`` in a child that kills itself at the ``number``-th line of the store; True if it came to its end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    left = [number]

    def trace(frame, event, argument):
        if Path(frame.f_code.co_filename) not in TRACED:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()
    sys.settrace(None)
    os._exit(0)


def interrupted_at_line(number, work):
    """The same with a KeyboardInterrupt in this process, which runs every ``finally`` on its way out."""
    left = [number]

    def trace(frame, event, argument):
        if Path(frame.f_code.co_filename) not in TRACED:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
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


def trial(directory, before, kill):
    """One writer killed: (ran to its end, what was left, names left by the writer after it)."""
    if before:
        OLD.save(directory)
    done = kill(lambda: NEW.save(directory))
    seen = look(directory)
    if FAULT == "none":
        NEW.save(directory)
        if look(directory) != "new":
            seen = "cannot be written any more"
    return done, seen, len(list(directory.glob("*")))


def every_line():
    kill = interrupted_at_line if MODE == "interrupts" else killed_at_line
    for before in (True,) if FAULT != "none" else (False, True):
        done, number = False, 0 if FAULT != "manifest first" else 100  # this planted fault shows near the end
        while not done:
            number += TRIALS  # the stride
            with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
                done, seen, names = trial(Path(folder) / "s", before, lambda work, n=number: kill(n, work))
            yield before, done, seen, names


def random_moments():
    generator = random.Random(0)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        start = time.perf_counter()
        NEW.save(Path(folder) / "s")
        whole = time.perf_counter() - start
    for number in range(TRIALS):
        before = bool(number % 2)
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            moment = generator.random() * whole
            done, seen, names = trial(Path(folder) / "s", before, lambda work, s=moment: killed_after(s, work))
        yield before, done, seen, names


def main():
    plant(FAULT)
    count = {"trials": 0, "killed": 0, "silently wrong": 0, "lost": 0, "left behind": 0, "seen": {}}
    for before, done, seen, names in every_line() if MODE != "moments" else random_moments():
        count["trials"] += 1
        count["killed"] += not done
        count["silently wrong"] += seen not in {"old", "new", "none"}
        count["lost"] += before and seen == "none"
        count["left behind"] += names != 4
        count["seen"][seen] = count["seen"].get(seen, 0) + 1
    sys.stdout.write(json.dumps(count))


main()
