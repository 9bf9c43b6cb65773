"""A disk that fills up at every stage of a write: a real, small file system of which k pages or files are left."""

import contextlib
import logging
import os
import re
import shutil

import numpy as np
import pytest
from extraction_cases import BATCH, CHUNKS, Source, a_model, chunks_read
from small_disk import PAGE, CannotMount, left, mounted, names

from spectral_sampler.errors import StoreError
from spectral_sampler.extraction import extract
from spectral_sampler.store import ReferenceStore, derived

pytestmark = pytest.mark.slow
SAID = re.compile(
    r"(\d+) bytes needed, (\d+) bytes free(?:, (\d+) files free)? \(No space left on device\); (.*?)\. Free"
)
NOTHING, KEPT = "nothing was left behind", "what was computed is kept, and the same call goes on with it"


@pytest.fixture
def disk(tmp_path):
    with contextlib.ExitStack() as held:
        try:
            yield held.enter_context(mounted(tmp_path / "disk"))
        except CannotMount as error:
            pytest.skip(str(error))


def a_store(seed, rows):
    generator = np.random.default_rng(seed)
    arrays = generator.normal(size=(rows, 10)).astype("f2"), generator.random(rows), generator.integers(0, 5, rows)
    return ReferenceStore.from_arrays(*arrays)


OLD, NEW = a_store(0, 100), a_store(1, 2500)


def extracted(path):
    return extract(a_model(), Source(), path, batch_size=BATCH, overwrite=True)


def judged(said, axis, before, target, free):
    """What is wrong about an error, or nothing."""
    found = SAID.search(said)
    if not found:
        return f"says {said}"
    needed, room, files, promise = found.groups()
    if int(room) != free:
        return f"says {room} bytes are free, which are {free}"
    if axis == "pages" and (files is not None or int(needed) <= int(room)):
        return f"says that {needed} bytes are needed, {room} free, and {files} files"
    if axis == "files" and files is None:
        return "does not say how many files are free"
    here = names(target) if target.exists() else []
    beside = [name for name in here if name not in before]
    if promise == NOTHING and here != before:
        return f"left {beside} behind"
    if promise == KEPT and (len([name for name in beside if "/" not in name]) != 1 or ".partial-" not in beside[0]):
        return f"kept {beside}"
    return "" if promise in (NOTHING, KEPT) else f"promises {promise}"


def stages(counted, disk, write, content):
    """``write`` with ever more pages, then files, until it succeeds; with and without a store that is there before."""
    for old in (False, True):
        for axis in ("pages", "files"):
            for amount in range(100):
                target = disk / "s"
                if old:
                    OLD.save(target)
                before = names(target) if old else []
                what = f"{axis} {amount}, {'a' if old else 'no'} store before"
                with left(disk, **{axis: amount}):
                    try:
                        write(target)
                        done = True
                    except StoreError as error:
                        done = False
                        free = shutil.disk_usage(disk).free
                        wrong = judged(str(error), axis, before, target, free)
                        counted.check(not wrong, f"{what}: the error {wrong}")
                    if old and not done:
                        intact = ReferenceStore.open(target, verify=True).fingerprint == OLD.fingerprint
                        counted.check(intact, f"{what}: the old store is lost")
                counted.check(write(target).fingerprint == content, f"{what}: cannot be written afterwards")
                clean = len(names(target)) == 4
                counted.check(clean, f"{what}: beside the store there is more: {names(target)}")
                shutil.rmtree(target)
                if done:
                    break
            assert done
            assert amount > 3


def test_a_store(line, disk):
    stages(line("store", "no space left at any stage of a write, on a real tmpfs"), disk, NEW.save, NEW.fingerprint)


def test_an_extraction(line, disk, tmp_path):
    content = extracted(tmp_path / "whole").fingerprint
    counted = line("store", "no space left at any stage of an extraction, on a real tmpfs")
    stages(counted, disk, extracted, content)


def test_what_was_computed_is_kept(line, disk, tmp_path):
    """Room for the rows and not for the manifest: nothing is computed twice."""
    counted = line("store", "no space left for an extraction's manifest: nothing is computed again")
    content = extracted(tmp_path / "whole").fingerprint
    for pages in range(100):
        with left(disk, pages=pages):
            try:
                extracted(disk / "s")
                break
            except StoreError as error:
                kept = KEPT in str(error)
        dataset = Source()
        again = extract(a_model(), dataset, disk / "s", batch_size=BATCH)
        counted.check(again.fingerprint == content, f"{pages} pages: resumed to something else")
        computed = len(chunks_read(dataset))
        counted.check(computed == (0 if kept else CHUNKS), f"{pages} pages: {computed} chunks computed, kept: {kept}")
        shutil.rmtree(disk / "s")
    assert kept


def test_what_is_kept_beside_a_store(line, disk, caplog):
    """Nothing depends on it, so it is a line in the log; and the store is whole."""
    counted = line("store", "no space left for what is kept beside a store")
    caplog.set_level(logging.INFO)
    store = NEW.save(disk / "s")
    before = names(disk / "s")
    arrays = {"doubts": np.arange(3000.0)}
    layout = {"doubts": ("float64", (3000,))}
    for axis, amounts in (("pages", range(12)), ("files", range(5))):
        for amount in amounts:
            caplog.clear()
            with left(disk, **{axis: amount}):
                derived.keep(store, "derived-x", 1, arrays)
                found = derived.kept(store, "derived-x", 1, layout)
            if found is None:
                told = "is not kept" in caplog.text
                counted.check(told and names(disk / "s") == before, f"{axis} {amount}: {names(disk / 's')}")
            else:
                counted.check(np.array_equal(found["doubts"], arrays["doubts"]), f"{axis} {amount}: other numbers")
                del found
                for name in set(names(disk / "s")) - set(before):
                    (disk / "s" / name).unlink()
        assert counted.checks
    counted.check(ReferenceStore.open(disk / "s", verify=True).fingerprint == NEW.fingerprint, "the store is damaged")


def test_the_disk_is_as_small_as_it_says(line, disk):
    """A fault of the test itself: with a page more than there is, the write must fail."""
    counted = line("store", "planted: the small disk is one")
    for pages in (0, 1, 7):
        with left(disk, pages=pages), (disk / "x").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, pages * PAGE) if pages else 1) if pages else None
            with pytest.raises(OSError, match="No space left"):
                os.posix_fallocate(file.fileno(), 0, (pages + 1) * PAGE)
        (disk / "x").unlink()
        counted.passed()
    with left(disk, files=0), pytest.raises(OSError, match="No space left"):
        (disk / "y").touch()
    counted.passed()
