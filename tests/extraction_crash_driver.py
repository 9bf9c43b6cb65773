"""Run as a program through crash_trials.py: kills an extraction at a chosen line or moment, then resumes it.

    python extraction_crash_driver.py MODE FAULT TRIALS     prints one line of JSON

It begins where there is nothing, where there is a store that it replaces, and where half of it is done.
"""

import contextlib
import functools
import gc
import json
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from extraction_cases import BATCH, Interrupted, Source, a_model, chunks_read
from killing import interrupted_at_line, killed_after, killed_at_line, seen_by_a_reader, tally

from spectral_sampler.extraction import extract, job, partial
from spectral_sampler.store import atomic, writing

torch.set_num_threads(1)
logging.disable()  # of what is damaged and begun anew
MODE, FAULT, TRIALS = sys.argv[1], sys.argv[2], int(sys.argv[3])
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  (a kill cannot tell memory from a disk)
ROWS = 3 * BATCH if MODE != "moments" else 50 * BATCH
TRACED = [atomic.__file__, writing.__file__, partial.__file__, job.__file__]  # all that touches the disk
MODELS = {"old": a_model(0), "new": a_model(1)}
BEGINNINGS = ("nothing", "store", "half")


def plant(fault):
    """The mistakes that the tests are there to see."""
    if fault == "believed":  # a chunk counts as soon as it is begun

        def write(self, chunk, arrays):
            self._digests[chunk] = 1
            for name, mapped in self._arrays.items():
                mapped[self._rows(chunk)] = arrays[name]

        partial.Partial.write = write
        partial.Partial.is_done = lambda self, chunk: bool(self._digests[chunk].any())


def extracted(name, path, stop=None, dataset=None):
    dataset = dataset or Source(stop, rows=ROWS)
    return extract(MODELS[name], dataset, path, batch_size=BATCH, overwrite=True, progress=False)


def hashed(directory):
    """The chunks that are done, as far as the disk says."""
    files = [file.read_bytes() for file in directory.glob(".partial-*/chunks.bin")]
    return sum(any(text[start : start + 32]) for text in files for start in range(0, len(text), 32))


def trial(beginning, kill):
    """(a store was there before, ran to its end, what was left, the next extraction left the whole and nothing else)

    What is left is "computed again" where the next one read chunks that the disk had.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        directory = Path(folder) / "s"
        if beginning == "store":
            OLD.save(directory)
        if beginning == "half":
            with contextlib.suppress(Interrupted):
                extracted("new", directory, stop=ROWS // BATCH // 2 * BATCH)
        done = kill(lambda: extracted("new", directory))
        seen, kept, dataset = seen_by_a_reader(directory, KNOWN), hashed(directory), Source(rows=ROWS)
        again = extracted("new", directory, dataset=dataset).fingerprint
        if again != NEW or seen_by_a_reader(directory, KNOWN) != "new":
            seen = "not resumed to the same"
        elif len(chunks_read(dataset)) + kept > ROWS // BATCH:
            seen = "computed again"
        return beginning == "store", done, seen, len(list(directory.iterdir())) == 4


def every_line():
    kill = functools.partial(interrupted_at_line if MODE == "interrupts" else killed_at_line, files=TRACED)
    for beginning in BEGINNINGS:
        done, number = False, 0
        while not done:
            number += TRIALS  # the stride
            result = trial(beginning, lambda work, n=number: kill(n, work=work))
            done = result[1]
            yield result


def random_moments():
    generator = random.Random(0)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        start = time.perf_counter()
        extracted("new", Path(folder) / "s")
        whole = time.perf_counter() - start
    for number in range(TRIALS):
        moment = generator.random() * whole
        yield trial(BEGINNINGS[number % 3], lambda work, s=moment: killed_after(s, work))


with tempfile.TemporaryDirectory(dir=MEMORY) as kept:
    OLD, NEW = (extracted(name, Path(kept) / name) for name in ("old", "new"))
    KNOWN = {store.fingerprint: name for name, store in (("old", OLD), ("new", NEW))}
    NEW = NEW.fingerprint
    plant(FAULT)
    gc.freeze()  # or every child copies what the collector marks
    sys.stdout.write(json.dumps(tally(random_moments() if MODE == "moments" else every_line())))
