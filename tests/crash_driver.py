"""Run as a program through crash_trials.py: kills writers at a chosen line or moment, looks at what is left.

    python crash_driver.py MODE FAULT TRIALS     prints one line of JSON

A process of its own, because forking is safe only where no other thread runs.
"""

import functools
import gc
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from killing import interrupted_at_line, killed_after, killed_at_line, seen_by_a_reader, tally

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


def trial(directory, before, kill):
    """One writer killed: (ran to its end, what was left, the writer after it left nothing else)."""
    if before:
        OLD.save(directory)
    done = kill(lambda: NEW.save(directory))
    seen = seen_by_a_reader(directory, KNOWN)
    if FAULT == "none":
        NEW.save(directory)
        if seen_by_a_reader(directory, KNOWN) != "new":
            seen = "cannot be written any more"
    return done, seen, len(list(directory.glob("*"))) == 4


def every_line():
    kill = functools.partial(interrupted_at_line if MODE == "interrupts" else killed_at_line, files=TRACED)
    for before in (True,) if FAULT != "none" else (False, True):
        done, number = False, 0 if FAULT != "manifest first" else 100  # this planted fault shows near the end
        while not done:
            number += TRIALS  # the stride
            with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
                done, seen, clean = trial(Path(folder) / "s", before, lambda work, n=number: kill(n, work=work))
            yield before, done, seen, clean


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
            done, seen, clean = trial(Path(folder) / "s", before, lambda work, s=moment: killed_after(s, work))
        yield before, done, seen, clean


def main():
    plant(FAULT)
    gc.freeze()  # or every child copies what the collector marks
    sys.stdout.write(json.dumps(tally(random_moments() if MODE == "moments" else every_line())))


main()
