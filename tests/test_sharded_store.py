"""A store of several parts is the plain store with the same rows: read, judged, selected from; whole at any moment."""

import json
import os
import pickle
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_sampler import (
    GSTDS,
    JEST,
    SALN,
    Guarded,
    Leverage,
    PlausibleEven,
    ReferenceStore,
    SpectralBatchSampler,
    Uniform,
    fiedler_rows,
    label_noise,
    suspects,
)
from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.estimates.clustering import cluster
from spectral_sampler.kernels import device_store
from spectral_sampler.selection.guarded import lead
from spectral_sampler.selection.leverage import ridge_leverage
from spectral_sampler.selection.spectral import fiedler_scores
from spectral_sampler.store import atomic, manifest, rows, sharded_store, shards

ROWS, CUTS = 600, (0, 170, 171, 460, 600)
GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(0, 4, ROWS)
FEATURES = np.maximum(GENERATOR.normal(size=(ROWS, 12)) + 2 * np.eye(12)[LABELS], 0).astype("f2")
FEATURES[:, 0] += 0.01
FEATURES[461] = FEATURES[3]  # a copy in another part
LABELS[461] = LABELS[3]
LABELS[5::31] = (LABELS[5::31] + 1) % 4
LOSSES = GENERATOR.random(ROWS).astype("f4")
PLAIN = ReferenceStore.from_arrays(FEATURES, LOSSES, LABELS)


def pieces(dtype=None):
    return [ReferenceStore.from_arrays(FEATURES[a:b], LOSSES[a:b], LABELS[a:b], dtype=dtype) for a, b in pairwise(CUTS)]


@pytest.fixture
def store(tmp_path):
    """One part in the directory, one linked from elsewhere, two written from memory."""
    inside, outside, *memory = pieces()
    inside.save(tmp_path / "store" / "rank-0")
    outside.save(tmp_path / "elsewhere")
    ReferenceStore.from_parts(tmp_path / "store", [tmp_path / "store" / "rank-0", tmp_path / "elsewhere", *memory])
    return ReferenceStore.open(tmp_path / "store")


KEYS = [
    0, -1, np.int64(171), slice(None), slice(165, 480, 7), slice(None, None, -50), np.array([599, 0, 170, 170, -600]),
    [3, 461], np.arange(24).reshape(2, 12) * 25, FEATURES[:, 1] > 2, np.empty(0, np.int64), [],
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_reads_as_one_array(store, key):
    found, wanted = store.features[key], FEATURES[np.asarray(key, int) if isinstance(key, list) else key]
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def test_is_one_array_to_who_asks(store):
    assert (len(store), store.width, store.features.shape, store.features.ndim) == (ROWS, 12, FEATURES.shape, 2)
    assert store.features.nbytes == FEATURES.nbytes
    assert store.dtype == torch.float16
    np.testing.assert_array_equal(np.asarray(store.features), FEATURES)
    np.testing.assert_array_equal(store.losses, LOSSES)
    np.testing.assert_array_equal(store.labels, LABELS)
    for key in (600, [-601], (0, 1), [0.5], np.ones(3, bool)):
        with pytest.raises(IndexError):
            store.features[key]
    assert "4 parts" in repr(store)


SELECTIONS = {
    "gstds": GSTDS, "saln": SALN, "knn": lambda: SALN(similarity="knn"), "plausible": PlausibleEven, "uniform": Uniform,
    "leverage": Leverage, "guarded": lambda: Guarded(SALN()), "jest": JEST,
}  # fmt: skip


def lists(store, selection, size, backend):
    sampler = SpectralBatchSampler(store, size, selection=selection(), seed=3, backend=backend)
    found = []
    for _ in range(2):
        for batch in sampler:
            found.append(batch)
            if sampler.listens:
                sampler.observe(batch, torch.tensor([(row * 37 % 101) / 25 for row in batch]))
    return found


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize(("size", "backend"), [(64, "auto"), (200, "auto"), (50, "eager")])
def test_lists_are_those_of_the_plain_store(store, name, size, backend):
    assert lists(store, SELECTIONS[name], size, backend) == lists(PLAIN, SELECTIONS[name], size, backend)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_lists_of_parts_in_few_bits_are_those_of_one(tmp_path, dtype):
    store = ReferenceStore.from_parts(tmp_path / "store", pieces(dtype))
    plain = ReferenceStore.from_arrays(FEATURES, LOSSES, LABELS, dtype=dtype)
    assert lists(store, GSTDS, 64, "auto") == lists(plain, GSTDS, 64, "auto")


@pytest.mark.parametrize("backend", ["eager", "native"])
def test_copied_rows_have_the_bits_of_those_in_their_place(backend):
    features, indices = (
        torch.from_numpy(FEATURES),
        torch.from_numpy(np.random.default_rng(1).permutation(ROWS)[None, :250]),
    )
    there = fiedler_rows(features, indices, backend=backend)
    places = torch.arange(250)[None]
    here = fiedler_rows(features[indices[0]], places, backend=backend, numbers=indices)
    other = fiedler_rows(features[indices[0]], places, backend=backend)
    assert all(torch.equal(a, b) for a, b in zip(there, here, strict=True))
    assert not torch.equal(there.vector, other.vector)  # else the numbers would be nothing to go by
    with pytest.raises(ArgumentError, match=r"^numbers must be int64 of the shape of indices"):
        fiedler_rows(features, indices, backend=backend, numbers=places[0])


@pytest.mark.parametrize(("similarity", "backend"), [("cosine", "native"), ("cosine", "eager"), ("knn", "eager")])
@pytest.mark.parametrize("size", [40, 200])
def test_scores_are_those_of_the_plain_store_to_the_bit(store, similarity, backend, size):
    """Lists alone would not tell: they are made not to follow rounding."""
    indices = np.random.default_rng(2).permutation(ROWS)[: 2 * size].reshape(2, size)
    found, wanted = (
        fiedler_scores(one, indices, score="signed", backend=backend, similarity=similarity) for one in (store, PLAIN)
    )
    for own, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(own, other)


def test_estimates_are_those_of_the_plain_store(store):
    assert suspects(PLAIN).any()
    np.testing.assert_array_equal(suspects(store), suspects(PLAIN))
    np.testing.assert_array_equal(label_noise(store).doubts, label_noise(PLAIN).doubts)
    assert label_noise(store).first[461] == 3
    np.testing.assert_array_equal(ridge_leverage(store.features, 0.01), ridge_leverage(FEATURES, 0.01))
    np.testing.assert_array_equal(cluster(store.features, 5).labels, cluster(FEATURES, 5).labels)
    passes = [(np.arange(0, ROWS, 3), np.ones(ROWS // 3))]
    assert lead(store, passes, None, seed=0, number=0, balance=0) == lead(
        PLAIN, passes, None, seed=0, number=0, balance=0
    )
    assert ReferenceStore.open(store.path).fingerprint == store.fingerprint  # though the estimate lies beside it now


def test_what_would_hold_everything_is_refused_in_one_sentence(store, monkeypatch):
    monkeypatch.setattr(rows, "_memory", lambda: 2 * ROWS * 12 * 8 - 1)
    assert np.asarray(store.features, "f4").shape == FEATURES.shape
    with pytest.raises(ArgumentError, match=r"^store must be small enough .*, got 600 x 12 float64, 57,600 bytes"):
        store.features.astype("f8")
    with pytest.raises(ArgumentError, match=r"^store must be one array .* 4 parts\)\. Read rows of it"):
        _ = store.features_tensor


@pytest.mark.parametrize("budget", [0, None])
def test_a_device_gets_rows_of_parts(store, budget, monkeypatch):
    monkeypatch.setattr(device_store, "_BLOCK_BYTES", 1000)
    indices = torch.from_numpy(np.random.default_rng(0).permutation(ROWS)[:120].reshape(3, 40))
    found = device_store.DeviceRows(store.features, "cpu", budget=budget).solve(indices, lambda part, at: (part[at],))[
        0
    ]
    np.testing.assert_array_equal(found.numpy(), FEATURES[indices.numpy()])


def test_pages_that_were_read_are_let_go(store, monkeypatch):
    monkeypatch.setattr(rows, "_TOUCHED", 100)
    let_go = []
    monkeypatch.setattr(rows.paging, "release", lambda array: let_go.append(len(array)))
    for _ in range(3):
        np.testing.assert_array_equal(store.features[100:200], FEATURES[100:200])
    assert let_go == [170, 1, 289, 140]


# Made, added to, replaced


def test_append_and_replace_leave_who_reads_alone(store):
    path, before = store.path, store.fingerprint
    more = ReferenceStore.from_arrays(FEATURES[:9] + 1, LOSSES[:9], LABELS[:9])
    longer = store.append(more)
    assert len(longer) == ROWS + 9
    np.testing.assert_array_equal(longer.features[ROWS:], FEATURES[:9] + 1)
    both = store.append(more)  # by a reader of the first one: the other's part stays
    assert len(both) == ROWS + 18
    other = longer.replace(2, more)
    assert len(other) == ROWS + 18 - 289 + 9
    np.testing.assert_array_equal(store.features[:], FEATURES)  # mapped already
    assert ReferenceStore.open(path).fingerprint == other.fingerprint != before
    with pytest.raises(StoreError, match=r"part 2 of .* was replaced since"):
        store.replace(2, more)
    with pytest.raises(ArgumentError, match=r"^number must be below 4"):
        store.replace(4, more)
    names = sorted(one.name for one in path.iterdir())
    assert len(names) == 2 + 5, names  # the manifest, rank-0, and a part for each that was written or linked
    assert (path.parent / "elsewhere").is_dir()
    assert store.replace(1, more).shards[1].rows == 9
    assert (path.parent / "elsewhere" / "manifest.json").exists()  # the link went, not what it led to


def test_pickles_as_path_and_fingerprint(store):
    data = pickle.dumps(store)
    assert len(data) < 500
    assert pickle.loads(data).fingerprint == store.fingerprint
    store.append(pieces()[0])
    with pytest.raises(StoreError, match=r"was replaced since it was pickled"):
        pickle.loads(data)


def test_save_copies_what_is_linked(store, tmp_path):
    saved = store.save(tmp_path / "copy")
    assert saved.fingerprint == store.fingerprint
    assert not any(path.is_symlink() for path in saved.path.iterdir())
    assert store.save(store.path) is store
    one = ReferenceStore.from_parts(tmp_path / "one", [PLAIN])
    assert lists(one, SALN, 64, "auto") == lists(PLAIN, SALN, 64, "auto")


def test_verify_compares_labels_of_all_parts(store):
    dataset = torch.utils.data.TensorDataset(torch.zeros(ROWS, 1), torch.from_numpy(LABELS))
    assert store.verify(dataset) is store
    wrong = torch.from_numpy(np.roll(LABELS, 1))
    with pytest.raises(ArgumentError, match=r"labels that differ"):
        store.verify(torch.utils.data.TensorDataset(torch.zeros(ROWS, 1), wrong))


def test_refusals_are_sentences(store, tmp_path):
    with pytest.raises(ArgumentError, match=r"^parts must be at least one store, got none"):
        ReferenceStore.from_parts(tmp_path / "new", [])
    narrow = ReferenceStore.from_arrays(FEATURES[:, :5], LOSSES, LABELS)
    with pytest.raises(ArgumentError, match=r"^part must be of width 12 with features and losses and labels"):
        store.append(narrow)
    with pytest.raises(ArgumentError, match=r"got of width 12 with features and labels"):
        store.append(ReferenceStore.from_arrays(FEATURES, labels=LABELS))
    with pytest.raises(ArgumentError, match=r"^part must be a store of one part"):
        store.append(store)
    with pytest.raises(ArgumentError, match=r"^store must be one made by from_parts"):
        PLAIN.append(PLAIN)
    with pytest.raises(ArgumentError, match=r"^store must be one made by from_parts"):
        PLAIN.replace(0, PLAIN)
    assert ReferenceStore.open(store.path).fingerprint == store.fingerprint
    assert len(list(store.path.glob("written-*"))) == 3  # what was refused left nothing
    PLAIN.save(tmp_path / "plain")
    with pytest.raises(StoreError, match=r"that is not that of a store of parts"):
        ReferenceStore.from_parts(tmp_path / "plain", [PLAIN])
    with pytest.raises(StoreError, match=r"is a store of parts"):
        PLAIN.save(store.path)


# Damaged, forged


def forged(directory, change):
    """The manifest as somebody would write it who knows how the checksum is made."""
    path = directory / manifest.MANIFEST
    body = json.loads(path.read_bytes())
    del body["sha256"]
    change(body)
    path.write_bytes(manifest.with_checksum(body))


PLACES = [
    "../elsewhere", "/etc", "a/b", "..", ".hidden", "", "file:///etc", "local://x", "http://x/y", "simplecache::s3://x",
    "s3://user:pw@x/y", "https://x:80/y", "s3://x/../y", "https://x/y?z", "memory://x\n", "part\x00", 7,
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_part_is_named_by_a_bare_name_or_a_known_address(store, place):
    forged(store.path, lambda body: body["parts"][0].update(place=place))
    with pytest.raises(StoreError, match=r"is damaged"):
        ReferenceStore.open(store.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["parts"][0].update(rows=10**12),
        lambda body: body["parts"][0].update(dtype="int8"),
        lambda body: body["parts"][0].update(fingerprint="0" * 64),
        lambda body: body["parts"][0].update(width=10**6),
        lambda body: body["parts"][0].update(columns=["losses"]),
        lambda body: body["parts"][0].update(rows=True),
        lambda body: body["parts"][0].update(more=1),
        lambda body: body.update(parts=[]),
        lambda body: body.update(parts={}),
        lambda body: body.update(fingerprint="0" * 64),
        lambda body: body.update(version=2),
    ],
)
def test_a_forged_manifest_is_refused(store, change):
    def consistent(body):
        change(body)
        if body["fingerprint"] != "0" * 64 and body["parts"]:
            parts = [shards.Shard(**{"place": "", "rows": 1, **one}) for one in body["parts"] if "more" not in one]
            body["fingerprint"] = shards.fingerprint(parts)

    forged(store.path, consistent)
    with pytest.raises(StoreError):
        ReferenceStore.open(store.path)


def test_every_byte_of_the_manifest_counts(store):
    path = store.path / manifest.MANIFEST
    text = path.read_bytes()
    for place in range(0, len(text), 7):
        path.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        with pytest.raises(StoreError):
            ReferenceStore.open(store.path)
        path.write_bytes(text[:place])
        with pytest.raises(StoreError):
            ReferenceStore.open(store.path)


def test_another_store_in_the_place_of_a_part_is_seen(store, tmp_path):
    ReferenceStore.from_arrays(FEATURES[:170] * 2, LOSSES[:170], LABELS[:170]).save(store.path / "rank-0")
    with pytest.raises(StoreError, match=r"part 0 of .*, rank-0, is another store than the one that was added"):
        ReferenceStore.open(store.path)


def test_a_changed_byte_of_a_part_is_seen(store):
    path = next((store.path / "rank-0").glob("features*.npy"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"was changed after it was written"):
        ReferenceStore.open(store.path)
    assert len(ReferenceStore.open(store.path, verify=False)) == ROWS


def test_a_store_that_is_its_own_part_ends(tmp_path, store):
    (store.path / "loop").symlink_to(store.path, target_is_directory=True)
    forged(store.path, lambda body: body["parts"][0].update(place="loop"))
    with pytest.raises(StoreError):
        ReferenceStore.open(store.path)


@pytest.fixture
def folder():
    """In memory, where nothing waits for a disk: an interrupt cannot tell."""
    memory = Path("/dev/shm")  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of locks that an interrupt leaves open
@pytest.mark.parametrize("change", ["append", "replace", "made"])
def test_interrupted_at_lines_all_through_a_change(folder, change):
    """Ctrl-C or an error anywhere leaves the old parts or the new ones, never a mix, and nothing beside them."""
    traced = {module.__file__ for module in (shards, sharded_store)}  # what they call: test_store_crash
    first, second = (ReferenceStore.from_arrays(FEATURES[a : a + 9]) for a in (0, 9))
    work = {
        "append": lambda store: store.append(second),
        "replace": lambda store: store.replace(0, second),
        "made": lambda store: ReferenceStore.from_parts(store.path, [second, first]),
    }[change]
    seen, done, number = set(), False, 0
    while not done:
        number += 3 if number % 2 else 2
        path = folder / str(number)
        store = ReferenceStore.from_parts(path, [first, first])

        def trace(frame, event, argument, left=[number]):  # noqa: B006 - counts down
            if frame.f_code.co_filename not in traced:
                return None
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work(store)
            done = True
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        found = ReferenceStore.open(path, verify=True)
        seen.add(found.fingerprint)
        found.append(first)  # the next writer is not kept out, and cleans up
        names = {one.name for one in path.iterdir()}
        assert names == {manifest.MANIFEST, *(one.place for one in ReferenceStore.open(path).shards)}
    assert number > 100
    assert len(seen) == 2


def test_a_killed_writer_leaves_the_old_parts(tmp_path, monkeypatch):
    """At the steps that a kill can come between: a part written and not named, a manifest staged and not named."""
    first, second = (ReferenceStore.from_arrays(FEATURES[a : a + 9]) for a in (0, 9))
    store = ReferenceStore.from_parts(tmp_path / "store", [first])
    for module, name in ((shards, "publish"), (atomic, "publish")):
        child = os.fork()
        if not child:
            monkeypatch.setattr(module, name, lambda *_, **__: os._exit(9))
            store.append(second)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert ReferenceStore.open(store.path, verify=True).fingerprint == store.fingerprint
        assert len(list(store.path.iterdir())) > 2
        assert len(store.append(second)) == 18
        assert len(list(store.path.iterdir())) == 3
        store = ReferenceStore.from_parts(store.path, [first])


# Parts that are elsewhere


@pytest.fixture
def bucket():
    """A part in fsspec's memory."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")

    def put(store, place, folder):
        store.save(folder)
        for path in Path(folder).iterdir():
            files.pipe(f"{place}/{path.name}", path.read_bytes())
        return files

    yield put
    files.store.clear()


def test_remote_parts_are_copied_once_and_compared(tmp_path, bucket):
    near, far, *_ = pieces()
    files = bucket(far, "/bucket/far", tmp_path / "far")
    cache = tmp_path / "cache"
    store = ReferenceStore.from_parts(tmp_path / "store", [near, "memory://bucket/far"], cache=cache)
    np.testing.assert_array_equal(store.features[:], FEATURES[:171])
    files.rm("/bucket/far/features.npy")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).features[:], FEATURES[:171])  # from the cache
    with pytest.raises(ArgumentError, match=r"^cache must be given for the part at memory://bucket/far, got None"):
        ReferenceStore.open(tmp_path / "store")
    with pytest.raises(StoreError, match=r"cannot read memory://bucket/far/features.npy"):
        ReferenceStore.open(tmp_path / "store", cache=tmp_path / "other")
    assert not any(path.is_file() for path in (tmp_path / "other").rglob("*"))
    assert store.save(tmp_path / "copy").fingerprint == store.fingerprint  # with the remote part in it
    copy = ReferenceStore.open(tmp_path / "copy")
    assert copy.shards[1].place.startswith("written-")


def test_what_a_remote_part_says_is_not_believed(tmp_path, bucket):
    near, far, other, *_ = pieces()
    files = bucket(far, "/bucket/far", tmp_path / "far")
    good = files.cat("/bucket/far/features.npy")
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-5], b""):
        files.pipe("/bucket/far/features.npy", bad)
        with pytest.raises(StoreError, match=r"memory://bucket/far/features.npy holds is not what its manifest says"):
            ReferenceStore.from_parts(tmp_path / "store", [near, "memory://bucket/far"], cache=tmp_path / "cache")
    files.pipe("/bucket/far/features.npy", good + b"more than there should be")
    store = ReferenceStore.from_parts(tmp_path / "store", [near, "memory://bucket/far"], cache=tmp_path / "cache")
    np.testing.assert_array_equal(store.features[:], FEATURES[:171])
    bucket(other, "/bucket/far", tmp_path / "third")
    with pytest.raises(StoreError, match=r"another store than the part that was added"):
        ReferenceStore.open(tmp_path / "store", cache=tmp_path / "new")
    with pytest.raises(ArgumentError, match=r"^part must be an address of https"):
        store.append("file:///etc")


# Few bits


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_rows_in_few_bits_keep_their_direction(tmp_path, dtype):
    values = np.random.default_rng(0).normal(size=(300, 64)) * 10.0 ** np.arange(-15, 15).repeat(10)[:, None]
    store = ReferenceStore.from_arrays(values, dtype=dtype)
    found = store.features[:].astype("f8")
    assert (store.features.dtype, store.stored, store.dtype) == (np.float32, dtype, torch.float32)
    largest, norms = np.abs(values).max(axis=1), np.linalg.norm(values, axis=1)
    angles = np.arccos(np.clip((found * values).sum(axis=1) / np.linalg.norm(found, axis=1) / norms, -1, 1))
    bound = 2.0**-8 if dtype == "bfloat16" else np.arcsin(8 * largest / 254 / norms)
    assert (angles <= bound * (1 + 1e-5)).all()
    assert angles.mean() > 1e-4  # else it would not be these types
    saved = store.save(tmp_path / "store")
    assert saved.fingerprint == store.fingerprint
    assert "quantised" not in repr(saved)
    np.testing.assert_array_equal(ReferenceStore.open(saved.path).features[:], found.astype("f4"))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(store)).features[:], found.astype("f4"))
    assert np.load(saved.path / "features.npy").dtype == ("uint16" if dtype == "bfloat16" else "int8")


def test_bfloat16_is_rounded_as_torch_does():
    values = np.random.default_rng(0).normal(size=(50, 8)).astype("f4")
    wanted = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(ReferenceStore.from_arrays(values, dtype=torch.bfloat16).features[:], wanted)


@pytest.mark.parametrize(
    ("dtype", "row", "sentence"),
    [
        ("int8", [0, 0], "non-zero in every row, got only zeros in row 1"),
        ("int8", [np.nan, 1], "finite, got NaN or Inf in row 1"),
        ("int8", [1e39, 1], "within the range of int8, got overflow in row 1"),
        ("int8", [1e-37, 0], "within the range of int8, got underflow to zero in row 1"),
        ("bfloat16", [0, 0], "non-zero in every row, got only zeros in row 1"),
        ("bfloat16", [3.4e38, 1], "within the range of bfloat16, got overflow in row 1"),
        ("bfloat16", [1e-42, 0], "within the range of bfloat16, got underflow to zero in row 1"),
    ],
)
def test_rows_that_few_bits_cannot_hold_are_refused(dtype, row, sentence):
    values = np.array([[1, 2], row, [3, 4]], "f8")
    with pytest.raises(ArgumentError, match=f"^features must be {sentence}"):
        ReferenceStore.from_arrays(values, dtype=dtype)
    if "zero" in sentence:
        filled = ReferenceStore.from_arrays(values, dtype=dtype, zero_rows="uniform").features[:]
        np.testing.assert_allclose(filled, [[1, 2], [0.5**0.5, 0.5**0.5], [3, 4]], rtol=4e-3, atol=0.02)


def test_int8_without_its_scales_is_refused(tmp_path):
    saved = ReferenceStore.from_arrays(FEATURES, dtype="int8").save(tmp_path / "store")
    found = manifest.read_manifest(saved.path)
    arrays = {name: entry for name, entry in found.arrays.items() if name != "scales"}
    (saved.path / manifest.MANIFEST).write_bytes(manifest.Manifest(arrays).to_bytes())
    with pytest.raises(StoreError, match=r"int8 features, and no others, have scales"):
        ReferenceStore.open(saved.path)


def test_parts_of_several_dtypes_are_read_as_float32(tmp_path):
    stores = [ReferenceStore.from_arrays(FEATURES[:50], dtype=dtype) for dtype in ("int8", "float16", "bfloat16")]
    store = ReferenceStore.from_parts(tmp_path / "store", stores)
    assert store.stored == "int8, float16, bfloat16"
    assert store.features.dtype == np.float32
    np.testing.assert_array_equal(store.features[50:100], FEATURES[:50])
    np.testing.assert_allclose(store.features[:], np.tile(FEATURES[:50], (3, 1)), atol=0.03)


def test_more_parts_than_could_be_read_back_are_refused(tmp_path, monkeypatch):
    """A manifest of as many as there may be is read, whatever their addresses are."""
    one = {"place": "s3://" + "a/" * 60 + "b", "fingerprint": "0" * 64, "rows": 10**12, "width": 10**6}
    parts = tuple(shards.Shard(**one, dtype="bfloat16", columns=("losses", "labels")) for _ in range(shards.MOST))
    shards.publish(tmp_path, parts)
    assert shards.read(tmp_path) == parts
    monkeypatch.setattr(shards, "MOST", 2)
    with pytest.raises(ArgumentError, match="parts must be at most 2, got 3"):
        ReferenceStore.from_parts(tmp_path / "s", [ReferenceStore.from_arrays(np.ones((2, 2)))] * 3)
