"""An extraction that is interrupted, killed, shared, or found half done ends with the bits of one that was not."""

import errno
import json
import logging
import os
import re
import shutil
from pathlib import Path

import pytest
from extraction_cases import (
    BATCH,
    CHUNKS,
    ROWS,
    Interrupted,
    Source,
    a_model,
    chunks_read,
    in_threads,
    partial_of,
)

from spectral_sampler.errors import StoreError
from spectral_sampler.extraction import extract, job, partial
from spectral_sampler.store import ReferenceStore, atomic


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return extract(a_model(), Source(), tmp_path_factory.mktemp("whole"), batch_size=BATCH).fingerprint


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_interrupted_at_every_chunk_and_resumed(tmp_path, whole, chunk):
    with pytest.raises(Interrupted):
        extract(a_model(), Source(stop=chunk * BATCH), tmp_path, batch_size=BATCH)
    with pytest.raises(StoreError, match="has not finished. Call from_model again" if chunk else "no readable"):
        ReferenceStore.open(tmp_path)
    dataset = Source()
    store = extract(a_model(), dataset, tmp_path, batch_size=BATCH)
    assert store.fingerprint == whole
    assert chunks_read(dataset) == list(range(chunk, CHUNKS))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "features.npy",
        "labels.npy",
        "losses.npy",
        "manifest.json",
    ]


def test_interrupted_again_and_again(tmp_path, whole):
    for chunk in range(1, CHUNKS):
        with pytest.raises(Interrupted):
            extract(a_model(), Source(stop=chunk * BATCH), tmp_path, batch_size=BATCH)
    assert extract(a_model(), Source(), tmp_path, batch_size=BATCH).fingerprint == whole


def stopped(path, model=None, stop=5 * BATCH, **options):
    with pytest.raises(Interrupted):
        extract(model or a_model(), Source(stop=stop), path, **{"batch_size": BATCH, **options})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": a_model(1)}, "model"),
        ({"version": "2"}, "version"),
        ({"batch_size": 9}, "batch_size"),
        ({"loss": None}, "loss"),
    ],
)
def test_what_another_model_or_setting_left_is_not_mixed_in(tmp_path, whole, caplog, options, named):
    stopped(tmp_path, **options)
    dataset = Source()
    with caplog.at_level(logging.WARNING):
        store = extract(a_model(), dataset, tmp_path, batch_size=BATCH)
    assert f"removed: an unfinished extraction at {tmp_path} that had another {named}" in caplog.text
    assert store.fingerprint == whole
    assert chunks_read(dataset) == list(range(CHUNKS))


@pytest.mark.parametrize("name", ["features.npy", "losses.npy", "labels.npy", "chunks.bin"])
def test_torn_chunks_are_computed_again(tmp_path, whole, name):
    """As after a power cut that lost pages: chunk 3 is hashed, but its rows are not those that were hashed."""
    stopped(tmp_path)
    path = partial_of(tmp_path) / name
    data = bytearray(path.read_bytes())
    header = 0 if name == "chunks.bin" else 128
    row = (len(data) - header) // (CHUNKS if name == "chunks.bin" else ROWS)
    at = header + row * (3 if name == "chunks.bin" else 3 * BATCH)
    data[at] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    dataset = Source()
    assert extract(a_model(), dataset, tmp_path, batch_size=BATCH).fingerprint == whole
    assert chunks_read(dataset) == [3, 5, 6, 7]


DAMAGED = [
    (name, damage)
    for name in ("features.npy", "chunks.bin", "settings.json")
    for damage in ("missing", "short", "header", "empty")
    if (name, damage) != ("chunks.bin", "header")  # it has none; a wrong byte there is a torn chunk
]


@pytest.mark.parametrize(("name", "damage"), DAMAGED)
def test_unfinished_files_that_are_damaged_are_given_up(tmp_path, whole, caplog, name, damage):
    stopped(tmp_path)
    path = partial_of(tmp_path) / name
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"short": data[:-1], "header": b"x" + data[1:], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert extract(a_model(), Source(), tmp_path, batch_size=BATCH).fingerprint == whole
    assert "starting over" in caplog.text


def test_a_store_stays_until_the_one_that_overwrites_it_is_done(tmp_path, whole):
    first = extract(a_model(1), Source(), tmp_path, batch_size=BATCH)
    stopped(tmp_path, overwrite=True)
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == first.fingerprint
    assert extract(a_model(), Source(), tmp_path, batch_size=BATCH, overwrite=True).fingerprint == whole
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == whole


def test_a_hashed_chunk_is_needed_for_a_store(tmp_path, monkeypatch):
    """Whatever a chunk was written by: without its hash it counts as missing, so the store is not published."""
    monkeypatch.setattr(partial.Partial, "is_done", lambda self, chunk: chunk != 4)
    with pytest.raises(StoreError, match=r"^1 of 8 chunks of .* are not on disk as they were written.*; call again"):
        extract(a_model(), Source(), tmp_path, batch_size=BATCH)
    with pytest.raises(StoreError, match="has not finished"):
        ReferenceStore.open(tmp_path)


def test_an_extraction_that_is_removed_under_way_is_missed_in_a_sentence(tmp_path, whole):
    class Removed(Source):
        def __getitem__(self, index):
            if index == 5 * BATCH and self.reads.get(index) == 2:
                shutil.rmtree(partial_of(tmp_path))
            return super().__getitem__(index)

    with pytest.raises(StoreError, match=r"^8 of 8 chunks of .* are not on disk"):
        extract(a_model(), Removed(), tmp_path, batch_size=BATCH)
    assert extract(a_model(), Source(), tmp_path, batch_size=BATCH).fingerprint == whole


def test_a_second_extraction_waits_and_reuses(tmp_path, whole):
    datasets = [Source(pause=0.003), Source()]
    models = [a_model() for _ in datasets]  # before the threads start: a seed belongs to the process, not to a thread

    def extracted(number):
        return extract(models[number], datasets[number], tmp_path, batch_size=BATCH).fingerprint

    results, failures = in_threads({number: lambda number=number: extracted(number) for number in range(2)})
    assert failures == {}
    assert results == {0: whole, 1: whole}
    assert sorted(len(chunks_read(dataset)) for dataset in datasets) == [0, CHUNKS]


@pytest.mark.parametrize("ranks", [2, 3, 11])
def test_ranks_write_disjoint_chunks_of_one_store(tmp_path, whole, ranks):
    """Also with more ranks than chunks."""
    datasets, models = [Source() for _ in range(ranks)], [a_model() for _ in range(ranks)]

    def part(rank):
        options = {"batch_size": BATCH, "num_replicas": ranks, "rank": rank}
        return extract(models[rank], datasets[rank], tmp_path, **options).fingerprint

    results, failures = in_threads({rank: lambda rank=rank: part(rank) for rank in range(ranks)})
    assert failures == {}
    assert results == dict.fromkeys(range(ranks), whole)
    read = [chunk for dataset in datasets for chunk in chunks_read(dataset)]
    assert sorted(read) == list(range(CHUNKS))
    assert len(list(tmp_path.iterdir())) == 4


def test_ranks_that_never_start_are_missed_by_number_and_made_up_for(tmp_path, whole):
    options = {"batch_size": BATCH, "num_replicas": 2, "patience": 0.1}
    with pytest.raises(StoreError, match=r"4 of 8 chunks of .* are missing and no rank has added one for 0.1 s"):
        extract(a_model(), Source(), tmp_path, rank=0, **options)
    dataset = Source()
    assert extract(a_model(), dataset, tmp_path, rank=1, **options).fingerprint == whole
    assert chunks_read(dataset) == [1, 3, 5, 7]


def test_another_number_of_ranks_goes_on_with_what_is_there(tmp_path, whole):
    with pytest.raises(StoreError, match="missing"):
        extract(a_model(), Source(), tmp_path, batch_size=BATCH, num_replicas=2, rank=1, patience=0)
    dataset = Source()
    assert extract(a_model(), dataset, tmp_path, batch_size=BATCH).fingerprint == whole
    assert chunks_read(dataset) == [0, 2, 4, 6]


def test_what_was_left_as_the_store_was_named_is_swept_by_the_next_call(tmp_path, whole, monkeypatch):
    """The old store's arrays may be gigabytes; nothing is swept while a writer is at work or where none may write."""
    extract(a_model(1), Source(), tmp_path, batch_size=BATCH)
    with monkeypatch.context() as patched:  # killed just after the manifest got its name
        patched.setattr(Path, "unlink", lambda *_, **__: None)
        patched.setattr(partial.shutil, "rmtree", lambda *_, **__: None)
        assert extract(a_model(), Source(), tmp_path, batch_size=BATCH, overwrite=True).fingerprint == whole
    left = sorted(tmp_path.iterdir())
    assert len(left) == 4 + 3 + 2, "the store, the old arrays, the lock, and the extraction"
    with atomic.writer_lock(tmp_path):
        assert extract(a_model(), Source(), tmp_path, batch_size=BATCH).fingerprint == whole
        assert sorted(tmp_path.iterdir()) == left
    dataset = Source()
    assert extract(a_model(), dataset, tmp_path, batch_size=BATCH).fingerprint == whole
    assert len(list(tmp_path.iterdir())) == 4
    assert chunks_read(dataset) == []


def forged(path, **fields):
    """What `extract` finds of an extraction that was stopped, with other settings."""
    stopped(path)
    file = partial_of(path) / "settings.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, **fields}))
    return settings["arrays"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"arrays": []}, "no attribute"),
        ({"arrays": {"features": ["float16", []]}}, "cannot be"),
        ({"arrays": {"features": ["float16", [ROWS, 0]]}}, "cannot be"),
        ({"arrays": {"features": ["object", [ROWS, 10]]}}, "cannot be"),
        ({"arrays": {"x": ["float16", [ROWS, 10]]}}, "'x'"),
        ({"arrays": {}}, "lengths"),
        ({"arrays": {"features": ["float16", [ROWS + 1, 10]]}}, "lengths"),
        ({"arrays": {"features": ["float16", [ROWS, 10]], "losses": ["float32", [1]]}}, "lengths"),
    ],
)
def test_settings_that_no_extraction_wrote_are_given_up(tmp_path, whole, caplog, fields, said):
    forged(tmp_path, **fields)
    assert extract(a_model(), Source(), tmp_path, batch_size=BATCH).fingerprint == whole
    assert re.search(f"starting over: .*{said}", caplog.text)


def test_rows_are_not_written_to_another_directory(tmp_path, whole):
    """Settings may name a file of the right form elsewhere: another extraction's, whose rows are not ours to write."""
    stopped(tmp_path / "theirs", a_model(1))
    theirs = partial_of(tmp_path / "theirs")
    arrays = forged(tmp_path / "s")
    name = f"../../theirs/{theirs.name}/features"
    forged(tmp_path / "s", arrays={**arrays, name: arrays["features"]})
    before = (theirs / "features.npy").read_bytes()
    assert extract(a_model(), Source(), tmp_path / "s", batch_size=BATCH).fingerprint == whole
    assert (theirs / "features.npy").read_bytes() == before


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "[]," * 300_000 + "1]", "9" * 5000, "null", "\ufeff{}", ""])
@pytest.mark.parametrize("own", [True, False])
def test_settings_that_are_no_json_of_ours_are_given_up(tmp_path, whole, text, own):
    """Of this extraction, or of another one that is discarded."""
    stopped(tmp_path, a_model(0 if own else 1))
    (partial_of(tmp_path) / "settings.json").write_text(text, encoding="utf-8")
    assert extract(a_model(), Source(), tmp_path, batch_size=BATCH).fingerprint == whole
    assert len(list(tmp_path.iterdir())) == 4


def test_no_room_for_the_manifest_keeps_what_was_computed(tmp_path, whole, monkeypatch):
    """It said that 0 bytes were needed and that nothing was left."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(atomic, "stage", full)
        with pytest.raises(StoreError, match=r"[1-9]\d* bytes needed.*; what was computed is kept, and the same call"):
            extract(a_model(), Source(), tmp_path, batch_size=BATCH)
    dataset = Source()
    assert extract(a_model(), dataset, tmp_path, batch_size=BATCH).fingerprint == whole
    assert chunks_read(dataset) == []


def killed(patched):
    """From now on this process changes no name, as one that was killed."""

    def dead(*_, **__):
        raise KeyboardInterrupt

    for name in ("rename", "replace", "unlink", "rmdir"):
        patched.setattr(Path, name, dead)
    patched.setattr(shutil, "rmtree", dead)
    raise KeyboardInterrupt


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("stopped_by", ["full", "interrupted", "killed"])
@pytest.mark.parametrize("before", [False, True])
def test_stopped_while_it_is_published_nothing_is_computed_again(
    tmp_path, whole, monkeypatch, linked, stopped_by, before
):
    """Between the names of the arrays and that of the manifest; also where a file system has no second names."""
    if before:
        extract(a_model(1), Source(), tmp_path, batch_size=BATCH)

    def stop(directory):
        if stopped_by == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if stopped_by == "interrupted":
            raise KeyboardInterrupt
        killed(patched)

    def no_links(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if not linked:
        monkeypatch.setattr(os, "link", no_links)
    said = "what was computed is kept, and the same call goes on with it" if stopped_by == "full" else None
    with monkeypatch.context() as patched:
        patched.setattr(atomic, "_sync_directory", stop)
        with pytest.raises((StoreError, KeyboardInterrupt), match=said):
            extract(a_model(), Source(), tmp_path, batch_size=BATCH, overwrite=True)
    if stopped_by != "killed":
        assert len(list(tmp_path.iterdir())) == 1 + 4 * before
    dataset = Source()
    assert extract(a_model(), dataset, tmp_path, batch_size=BATCH, overwrite=True).fingerprint == whole
    assert chunks_read(dataset) == (list(range(CHUNKS)) if stopped_by == "killed" and not linked else [])
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_are_listed_as_they_are_needed(monkeypatch, num_workers):
    """The numbers of all rows, before the first batch, are 40 GB for 10⁹ of them."""
    listed, rows = [], job.Batches.rows
    monkeypatch.setattr(job.Batches, "rows", lambda self, chunk: (listed.append(chunk), rows(self, chunk))[1])
    batches = job.Batches(range(300), 3, None, num_workers)
    loaded = batches.load(list(range(0, 100, 2)))
    chunk, batch = next(loaded)
    assert (chunk, batch.tolist()) == (0, [0, 1, 2])
    assert len(listed) <= 1 + 2 * num_workers
    assert [chunk for chunk, _ in loaded] == list(range(2, 100, 2))


def test_settings_of_an_unfinished_extraction_are_plain_json(tmp_path):
    stopped(tmp_path)
    settings = json.loads((partial_of(tmp_path) / "settings.json").read_text())
    assert settings["identity"]["batch_size"] == BATCH, "the rows of a chunk"
    assert settings["arrays"] == {
        "features": ["float16", [ROWS, 10]],
        "losses": ["float32", [ROWS]],
        "labels": ["int64", [ROWS]],
    }
