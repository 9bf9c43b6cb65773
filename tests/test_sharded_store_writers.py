"""Stores of parts under writers that know an older state, parts that went, names that people give, and large claims."""

import shutil

import numpy as np
import pytest
import torch
from extraction_cases import BATCH, Source, a_model
from test_sharded_store import FEATURES, bucket, pieces

from spectral_sampler import SALN
from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.extraction import extract
from spectral_sampler.ops import explain
from spectral_sampler.store import ReferenceStore, atomic, manifest, remote, rows, writing

__all__ = ["bucket"]  # a fixture


@pytest.fixture
def store(tmp_path):
    return ReferenceStore.from_parts(tmp_path / "store", pieces()[:2])


def test_saving_an_older_state_over_a_newer_one_is_refused(store, tmp_path):
    newer = ReferenceStore.open(store.path).replace(0, pieces()[2])
    with pytest.raises(StoreError, match="was changed since this store was opened"):
        store.save(store.path)
    assert ReferenceStore.open(store.path, verify=True).fingerprint == newer.fingerprint
    assert newer.save(store.path) is newer


@pytest.mark.parametrize("change", ["saved again", "gone"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_part_that_is_another_by_now_is_not_added(store, tmp_path, change, inside):
    place = (store.path if inside else tmp_path) / "mine"
    part = pieces()[2].save(place)
    if change == "gone":
        shutil.rmtree(place)
    else:
        pieces()[3].save(place)
    with pytest.raises(StoreError):
        store.append(part)
    found = ReferenceStore.open(store.path, verify=True)
    assert found.fingerprint == store.fingerprint
    assert not any(path.is_symlink() for path in store.path.iterdir()), "what was refused left nothing"


def test_directories_that_people_named_stay(tmp_path):
    places = [tmp_path / "s" / f"part-{rank:016d}" for rank in range(3)]
    for place, part in zip(places, pieces(), strict=False):
        part.save(place)
    store = ReferenceStore.from_parts(tmp_path / "s", places[:1])
    for place in places[1:]:
        store = store.append(place)
    assert len(store) == 460


@pytest.mark.parametrize("index", [-1, 171])
@pytest.mark.parametrize("kind", ["parts", "int8"])
def test_rows_that_are_not_there_have_no_scores(store, index, kind):
    found = store if kind == "parts" else ReferenceStore.from_arrays(FEATURES[:171], dtype="int8")
    with pytest.raises(ArgumentError, match=r"indices must be between 0 and 170, got"):
        SALN().score(found, np.array([[0, 1, 2, index]]), backend="auto")
    with pytest.raises(ArgumentError, match=r"indices must be between 0 and 170, got"):
        found.candidate_rows(torch.tensor([[0, index]]))


def test_to_show_a_store_joins_nothing(store, monkeypatch):
    assert "losses, labels" in repr(store)
    assert not {"losses", "labels"} & set(vars(store))
    monkeypatch.setattr(rows, "_memory", lambda: 2 * 171 * 8 - 1)
    with pytest.raises(ArgumentError, match=r"store must be small enough .* got 171 labels, 1,368 bytes"):
        _ = store.labels


def test_one_row_in_few_bits_is_explained():
    assert "1 × 12" in explain(ReferenceStore.from_arrays(FEATURES[:1], dtype="int8"))


def test_a_plain_store_does_not_take_the_place_of_parts(store):
    with pytest.raises(StoreError, match="is a store of parts"):
        pieces()[0].save(store.path)


def test_a_copy_that_lost_a_file_is_fetched_anew(tmp_path, bucket):
    near, far, *_ = pieces()
    bucket(far, "/bucket/far", tmp_path / "far")
    cache = tmp_path / "cache"
    store = ReferenceStore.from_parts(tmp_path / "s", [near, "memory://bucket/far"], cache=cache)
    (cache / far.fingerprint / "losses.npy").unlink()
    found = ReferenceStore.open(tmp_path / "s", cache=cache, verify=True)
    assert found.fingerprint == store.fingerprint
    again = ReferenceStore.from_parts(tmp_path / "again", found.stores, cache=cache)
    assert again.shards[1].place == "memory://bucket/far", "and not where the copy lies today"


def test_a_store_is_written_a_piece_at_a_time(tmp_path, monkeypatch):
    alive = [0, 0]

    def pieces_of(array):
        for piece in manifest.data_chunks(array):
            alive[0] += 1
            alive[1] = max(alive)
            yield piece
            alive[0] -= 1

    monkeypatch.setattr(manifest, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(writing, "data_chunks", pieces_of)
    pieces()[0].save(tmp_path / "s")
    assert alive == [0, 1]


@pytest.mark.parametrize(("number", "remedy"), [(24, "ulimit -n"), (13, "the right to read"), (5, "Is the disk there")])
def test_what_cannot_be_read_today_is_not_called_lost(tmp_path, monkeypatch, number, remedy):
    pieces()[0].save(tmp_path / "s")

    def failing(*_, **__):
        raise OSError(number, "for some reason")

    monkeypatch.setattr(manifest, "_mapped", failing)
    with pytest.raises(StoreError, match=rf"cannot read .* for some reason\. .*{remedy}"):
        ReferenceStore.open(tmp_path / "s")


@pytest.mark.parametrize("left", ["manifest.json", "derived-label-noise.json", "x"])
def test_what_a_writer_left_does_not_let_another_take_the_place_of_parts(store, left):
    (store.path / atomic.temporary_name(left)).touch()
    writers = (pieces()[0].save, lambda path: extract(a_model(), Source(), path, batch_size=BATCH))
    for write in writers:
        with pytest.raises(StoreError, match="is a store of parts"):
            write(store.path)
    assert ReferenceStore.open(store.path, verify=True).fingerprint == store.fingerprint


def test_a_part_of_another_store_of_parts_stays_when_that_one_is_changed(store, tmp_path):
    other = ReferenceStore.from_parts(tmp_path / "other", store.stores)
    (tmp_path / "link").symlink_to(store.stores[1].path)
    other = other.append(tmp_path / "link")
    store.replace(0, pieces()[2]).replace(1, pieces()[2])
    assert ReferenceStore.open(other.path, verify=True).fingerprint == other.fingerprint
    assert not any(path.is_symlink() for path in other.path.iterdir())


def state(directory):
    return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in directory.rglob("*")}


def test_saved_again_nothing_is_written(store, tmp_path):
    copy = store.save(tmp_path / "copy")
    before = state(copy.path)
    assert store.save(copy.path).fingerprint == store.fingerprint
    assert state(copy.path) == before
    labels = next(copy.stores[0].path.glob("labels.npy"))
    labels.write_bytes(labels.read_bytes()[:-1] + b"x")
    store.save(copy.path)
    assert ReferenceStore.open(copy.path, verify=True).fingerprint == store.fingerprint, "and damage is repaired"
    linked = ReferenceStore.from_parts(
        tmp_path / "linked", [part.save(tmp_path / part.fingerprint) for part in pieces()[:2]]
    )
    assert linked.fingerprint == store.fingerprint
    store.save(linked.path)
    assert not any(path.is_symlink() for path in linked.path.iterdir()), "links are no copy"


def test_a_slice_of_everything_is_refused_beyond_memory(store, monkeypatch):
    monkeypatch.setattr(rows, "_memory", lambda: 2 * 171 * 12 * 2 - 1)
    with pytest.raises(ArgumentError, match=r"^store must be small enough .*, got 171 x 12 float16, 4,104 bytes"):
        _ = store.features[:]
    np.testing.assert_array_equal(store.features[:-1], FEATURES[:170])
    np.testing.assert_array_equal(store.features[::-2], FEATURES[:171][::-2])


# Elsewhere


def remote_store(tmp_path, bucket, address="memory://bucket/far"):
    near, far, *_ = pieces()
    bucket(far, "/bucket/far", tmp_path / "far")
    return far, ReferenceStore.from_parts(tmp_path / "s", [near, address], cache=tmp_path / "cache")


def test_a_slash_at_the_end_of_an_address_says_nothing(tmp_path, bucket):
    far, store = remote_store(tmp_path, bucket, "memory://bucket/far/")
    assert store.shards[1].place == "memory://bucket/far"
    assert store.stores[1].fingerprint == far.fingerprint


def test_a_stream_that_gives_what_has_arrived_is_read_to_its_end(tmp_path, bucket, monkeypatch):
    memory = pytest.importorskip("fsspec.implementations.memory")
    read = memory.MemoryFile.read
    monkeypatch.setattr(memory.MemoryFile, "read", lambda file, size=-1: read(file, min(size, 7)), raising=False)
    far, store = remote_store(tmp_path, bucket)
    assert store.stores[1].fingerprint == far.fingerprint


@pytest.mark.parametrize("again", ["opened", "added"])
def test_a_damaged_copy_is_fetched_again(tmp_path, bucket, again):
    far, store = remote_store(tmp_path, bucket)
    path = tmp_path / "cache" / far.fingerprint / "features.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    if again == "opened":
        found = ReferenceStore.open(store.path, cache=tmp_path / "cache")
    else:
        found = store.append("memory://bucket/far")
    assert ReferenceStore.open(found.stores[-1].path, verify=True).fingerprint == far.fingerprint
    pieces()[2].save(path.parent)  # and another store in its place is no copy either
    assert ReferenceStore.open(found.path, cache=tmp_path / "cache").fingerprint == found.fingerprint


def test_a_copy_that_cannot_be_read_is_not_fetched_again(tmp_path, bucket, monkeypatch):
    _, store = remote_store(tmp_path, bucket)

    def failing(*_, **__):
        raise StoreError("cannot read it") from OSError(5, "a disk")

    monkeypatch.setattr(ReferenceStore, "open_one", failing)
    monkeypatch.setattr(remote, "_copy", None)
    with pytest.raises(StoreError, match="cannot read it"):
        store.append("memory://bucket/far")
