"""Run as a program through crash_trials.py: kills writers of a store of parts at their lines, looks at what is left.

    python parts_crash_driver.py CHANGE FAULT STRIDE     prints one line of JSON

CHANGE is "append", "replace" (of a part), "remade" (by from_parts, where a store is) or "made" (where none is).
"""

import functools
import gc
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from killing import killed_at_line, tally

from spectral_sampler.errors import StoreError
from spectral_sampler.store import ReferenceStore, atomic, manifest, sharded_store, shards, writing

torch.set_num_threads(1)
CHANGE, FAULT, STRIDE = sys.argv[1], sys.argv[2], int(sys.argv[3])
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  (a kill cannot tell memory from a disk)
TRACED = {Path(module.__file__) for module in (atomic, writing, sharded_store, shards)}  # all that touches the disk


def a_part(seed):
    generator = np.random.default_rng(seed)
    return ReferenceStore.from_arrays(generator.normal(size=(9, 4)).astype("f2"), generator.random(9))


FIRST, SECOND, THIRD = map(a_part, range(3))
OLD = [FIRST, SECOND]
NEW = {"append": [FIRST, SECOND, THIRD], "replace": [THIRD, SECOND]}.get(CHANGE, [THIRD, FIRST])


def change(directory):
    if CHANGE == "append":
        ReferenceStore.open(directory).append(THIRD)
    elif CHANGE == "replace":
        ReferenceStore.open(directory).replace(0, THIRD)
    else:
        ReferenceStore.from_parts(directory, NEW)


def plant(fault):
    """The mistakes that the tests are there to see."""
    publish, placed = shards.publish, sharded_store._placed
    if fault == "old parts removed first":

        def other(directory, parts):
            for path in directory.glob("written-*"):
                if path.name not in {part.place for part in parts}:
                    atomic.discard(path)
            publish(directory, parts)

        shards.publish = other
    if fault == "what is not named is kept":
        shards.sweep = lambda directory: None
    if fault == "named while incomplete":  # each part as it comes

        def placed_and_named(directory, part, *given, **options):
            found = placed(directory, part, *given, **options)
            if CHANGE in ("made", "remade"):
                publish(directory, [found])
            return found

        sharded_store._placed = placed_and_named


def look(directory):
    """ "old", "new" or "none" where that is what a reader gets; "wrong" for anything else that opens."""
    try:
        found = ReferenceStore.open(directory, verify=True)
    except StoreError:
        return "none"
    for name, parts in (("old", OLD), ("new", NEW)):
        if [store.fingerprint for store in found.stores] == [part.fingerprint for part in parts]:
            rows = np.concatenate([part.features for part in parts])
            losses = np.concatenate([part.losses for part in parts])
            same = np.array_equal(found.features[:], rows) and np.array_equal(found.losses, losses)
            return name if same else "wrong"
    return "wrong"


def trial(directory, number):
    """One writer killed: (a store was there, ran to its end, what was left, the writer after it left nothing else)."""
    before = CHANGE != "made"
    if before:
        ReferenceStore.from_parts(directory, OLD)
    done = killed_at_line(number, TRACED, functools.partial(change, directory))
    seen = look(directory)
    if seen == "none" and before:
        return before, done, seen, True
    if seen != "new":
        change(directory)
        if look(directory) != "new":
            seen = "cannot be written any more"
    ReferenceStore.from_parts(directory, NEW)
    named = {shard.place for shard in ReferenceStore.open(directory).shards}
    return before, done, seen, {path.name for path in directory.iterdir()} == {manifest.MANIFEST, *named}


def every_line():
    done, number = False, 0
    while not done:
        number += STRIDE
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
            result = trial(Path(folder) / "s", number)
        done = result[1]
        yield result


plant(FAULT)
gc.freeze()  # or every child copies what the collector marks
sys.stdout.write(json.dumps(tally(every_line())))
