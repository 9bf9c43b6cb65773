"""What enters a store, what comes back from disk, and what a store is besides its arrays."""

import decimal
import pickle
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.store import ReferenceStore, checks, manifest, paging


def rows(seed=0, shape=(20, 6)):
    return np.random.default_rng(seed).normal(size=shape)


def a_store(seed=0, dtype="float16", shape=(20, 6)):
    generator = np.random.default_rng(seed)
    return ReferenceStore.from_arrays(
        generator.normal(size=shape).astype(dtype), generator.random(shape[0]), generator.integers(0, 5, shape[0])
    )


def contents(directory):
    return sorted(path.name for path in Path(directory).iterdir())


@pytest.mark.parametrize(
    ("given_dtype", "stored"),
    [("float16", "float16"), ("float32", "float32"), ("float64", "float32"), ("int8", "float32"), ("int64", "float32"),
     ("bool", "float32"), (">f4", "float32"), (">f2", "float16"), (">i4", "float32"), ("uint16", "float32")],
)  # fmt: skip
def test_dtypes_are_kept_or_widened_to_float32(given_dtype, stored):
    values = np.array([[1, 0, 1], [0, 1, 1]]).astype(given_dtype)
    store = ReferenceStore.from_arrays(values)
    assert store.features.dtype == np.dtype(stored)
    assert store.features.dtype.isnative
    np.testing.assert_array_equal(store.features, values.astype(stored))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.bool]
)
def test_tensors_are_taken(dtype):
    values = torch.tensor([[1, 0, 1], [0, 1, 1]]).to(dtype).requires_grad_(dtype.is_floating_point)
    store = ReferenceStore.from_arrays(values, torch.tensor([0.5, 2.0]), torch.tensor([3, 4]))
    assert store.features.dtype == (np.float16 if dtype == torch.float16 else np.float32)
    assert store.features.tolist() == [[1, 0, 1], [0, 1, 1]]
    assert store.losses.tolist() == [0.5, 2.0]
    assert store.labels.tolist() == [3, 4]


def test_strided_and_nested_input():
    values = rows(shape=(40, 12)).astype("f4")
    store = ReferenceStore.from_arrays(values[::2, ::-3])
    assert store.features.flags.c_contiguous
    np.testing.assert_array_equal(store.features, values[::2, ::-3])
    assert ReferenceStore.from_arrays([[1, 2], [3, 4]], [0, 1], [7, 8]).features.tolist() == [[1, 2], [3, 4]]


def test_a_fitting_array_is_not_copied():
    values = rows().astype("f2")
    assert ReferenceStore.from_arrays(values).features is values


def test_dtype_argument():
    assert ReferenceStore.from_arrays(rows(), dtype="float16").features.dtype == np.float16
    assert ReferenceStore.from_arrays(rows().astype("f2"), dtype=torch.float32).features.dtype == np.float32
    with pytest.raises(ArgumentError, match="dtype must be float16, float32, bfloat16 or int8, got int16"):
        ReferenceStore.from_arrays(rows(), dtype="int16")


def planted(values, dtype="f8"):
    array = rows(shape=(3000, 8)).astype(dtype)
    for row, value in values.items():
        array[row] = value
    return array


REFUSED_FEATURES = [
    (planted({2: np.nan}), "finite, got NaN or Inf in row 2. "),
    (planted({2999: np.inf, 7: -np.inf}, "f2"), "finite, got NaN or Inf in rows 7, 2999. "),
    (planted(dict.fromkeys(range(10, 18), np.nan), "f4"), "in rows 10, 11, 12, 13, 14 and 3 more. "),
    (planted({0: 0, 2500: 0}), "non-zero in every row, got only zeros in rows 0, 2500. "),
    (planted({5: 1e39}), "within the range of float32, got overflow in row 5. "),
    (planted({6: 1e-300}), "within the range of float32, got underflow to zero in row 6. "),
    (rows(shape=(5,)), r"a non-empty \(M, d\) array, got shape \(5,\)"),
    (rows(shape=(0, 5)), r"got shape \(0, 5\)"),
    (rows(shape=(5, 0)), r"got shape \(5, 0\)"),
    (rows(shape=(2, 3, 4)), r"got shape \(2, 3, 4\)"),
    (rows().astype(complex), "real numbers, got dtype complex128"),
    (rows().astype(object), "real numbers, got dtype object"),
    (np.array([["a", "b"]]), "real numbers, got dtype <U1"),
    (np.array([["2020-01-01"]], "M8"), "real numbers, got dtype datetime64"),
    ([[1, 2], [3]], "rectangular"),
    (torch.eye(3).to_sparse(), "a dense tensor"),
]


@pytest.mark.parametrize(("features", "sentence"), REFUSED_FEATURES, ids=[case[1][:40] for case in REFUSED_FEATURES])
def test_bad_features_are_refused_in_a_sentence(features, sentence):
    with pytest.raises(ArgumentError, match=f"^features must be .*{sentence}"):
        ReferenceStore.from_arrays(features)


def test_float16_range_is_checked_by_row():
    with pytest.raises(ArgumentError, match="within the range of float16, got overflow in rows 1, 4"):
        ReferenceStore.from_arrays([[1, 2], [1e5, 1], [3, 4], [5, 6], [0, -7e4]], dtype="float16")
    with pytest.raises(ArgumentError, match="within the range of float16, got underflow to zero in row 1"):
        ReferenceStore.from_arrays([[1, 2], [1e-9, 1e-10]], dtype="float16")


def test_row_numbers_survive_the_blocks(monkeypatch):
    monkeypatch.setattr(checks, "_BLOCK_BYTES", 8 * 8 * 7)  # seven rows a block
    with pytest.raises(ArgumentError, match="NaN or Inf in rows 6, 7, 700"):
        ReferenceStore.from_arrays(planted({6: np.nan, 7: np.inf, 700: np.nan}))
    np.testing.assert_array_equal(ReferenceStore.from_arrays(planted({})).features, planted({}).astype("f4"))


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ([1, 2, np.nan], "finite .* in row 2. "),
        ([np.inf, 2, 1], "finite .* in row 0. "),
        ([1, 1e39, 1], "finite .* overflow in row 1. "),
        ([1, -1e-3, -2], "at least 0, got negative values in rows 1, 2. "),
        ([1, 2], r"of shape \(3,\), one value per row of features, got shape \(2,\)"),
        ([[1], [2], [3]], r"got shape \(3, 1\)"),
        (["a", "b", "c"], "real numbers"),
    ],
)
def test_bad_losses_are_refused(losses, sentence):
    with pytest.raises(ArgumentError, match=f"^losses must be .*{sentence}"):
        ReferenceStore.from_arrays(np.eye(3), losses)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([0.5, 1, 2], "integers, got dtype float64"),
        ([1, 2], r"of shape \(3,\)"),
        (np.array([1, 2**63, 3], "u8"), "below 2.*row 1"),
        (np.array([0.0, 1.0, 2.0], object), r"integers, got objects \(float\)\. Cast class numbers"),
        (np.array([0, np.True_, decimal.Decimal(2)], object), "Cast class numbers"),
        (np.array([0, 1.5, 2], object), "fractions in row 1.*regression"),
        (np.array([0, np.nan, 2], object), "no class in row 1"),
        (np.array(["a", np.nan, "b"], object), "no class in row 1"),
        ([0, 2**70, 1], "Number the classes from 0"),
        ([0, 10**400, 1], "Number the classes from 0"),
        (torch.zeros(3, device="meta"), "a dense tensor.*Load it onto a device"),
    ],
)
def test_bad_labels_are_refused(labels, sentence):
    with pytest.raises(ArgumentError, match=f"^labels must be .*{sentence}"):
        ReferenceStore.from_arrays(np.eye(3), labels=labels)


def test_negative_zero_loss_and_zero_loss_are_losses():
    assert ReferenceStore.from_arrays(np.eye(2), [-0.0, 0]).losses.tolist() == [0, 0]


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(st.sampled_from(["f2", "f4", "f8"]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_any_array_is_taken_exactly_or_refused(array):
    with np.errstate(over="ignore", under="ignore"):
        target = array if array.dtype != np.float64 else array.astype("f4")
    good = np.isfinite(target).all() and target.any(axis=1).all()
    if good:
        np.testing.assert_array_equal(ReferenceStore.from_arrays(array).features, target)
    else:
        with pytest.raises(ArgumentError, match="in row"):
            ReferenceStore.from_arrays(array)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("columns", [(), ("losses",), ("labels",), ("losses", "labels")])
def test_save_and_open_give_the_same_bits(tmp_path, dtype, columns):
    full = a_store(dtype=dtype)
    store = ReferenceStore.from_arrays(full.features, **{name: getattr(full, name) for name in columns})
    saved = store.save(tmp_path / "deep" / "store")
    for found in (saved, ReferenceStore.open(tmp_path / "deep" / "store", verify=True)):
        assert found.features.tobytes() == store.features.tobytes()
        assert found.features.dtype == np.dtype(dtype)
        assert found.fingerprint == store.fingerprint
        assert (len(found), found.width) == (20, 6)
        for name in ("losses", "labels"):
            assert (getattr(found, name) is None) == (name not in columns)
            if name in columns:
                np.testing.assert_array_equal(getattr(found, name), getattr(store, name))
    assert contents(tmp_path / "deep" / "store") == sorted(
        [*(f"{n}.npy" for n in ("features", *columns)), "manifest.json"]
    )


def test_the_files_are_plain_npy(tmp_path):
    store = a_store()
    store.save(tmp_path)
    for name in ("features", "losses", "labels"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy", allow_pickle=False), getattr(store, name))


def test_several_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "CHUNK_BYTES", 100)
    store = a_store(shape=(77, 5))
    store.save(tmp_path)
    assert ReferenceStore.open(tmp_path).features.tobytes() == store.features.tobytes()
    assert len(manifest.read_manifest(tmp_path).arrays["features"].sha256) == 8
    flip(tmp_path / "features.npy", 128 + 2 * 77 * 5 - 1)
    with pytest.raises(StoreError, match="bytes 828 to 898 do not match"):
        ReferenceStore.open(tmp_path)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_verify_says_how_much_is_read(tmp_path, monkeypatch):
    a_store().save(tmp_path)
    flip(tmp_path / "features.npy", 200)
    for verify in (True, None):
        with pytest.raises(StoreError, match="changed after it was written"):
            ReferenceStore.open(tmp_path, verify=verify)
    assert len(ReferenceStore.open(tmp_path, verify=False)) == 20
    monkeypatch.setattr("spectral_sampler.store.reference_store.VERIFY_BELOW", 10)
    assert len(ReferenceStore.open(tmp_path)) == 20  # too large to read at every start


def test_opened_features_are_mapped_and_writes_stay_private(tmp_path):
    store = a_store().save(tmp_path)
    before = (tmp_path / "features.npy").read_bytes()
    assert paging.mapping(store.features) is not None
    assert paging.mapping(np.ones(3)) is None
    tensor = store.features_tensor  # a warning here would be an error
    assert tensor.dtype == torch.float16
    assert tensor.data_ptr() == store.features.ctypes.data
    tensor[0, 0] = 1234
    assert (tmp_path / "features.npy").read_bytes() == before


def test_read_only_arrays_give_a_tensor_without_a_warning():
    values = rows().astype("f4")
    values.flags.writeable = False
    assert ReferenceStore.from_arrays(values).features_tensor.shape == (20, 6)


def test_fingerprint_depends_on_all_content_and_on_nothing_else(tmp_path):
    base = a_store()
    assert a_store().fingerprint == base.fingerprint
    one_bit = base.features.copy()
    one_bit.view(np.uint16)[3, 3] ^= 1
    others = [
        ReferenceStore.from_arrays(one_bit, base.losses, base.labels),
        ReferenceStore.from_arrays(base.features, base.losses),
        ReferenceStore.from_arrays(base.features, base.losses[::-1], base.labels),
        ReferenceStore.from_arrays(base.features, base.losses, base.labels + 1),
        ReferenceStore.from_arrays(base.features, base.losses, base.labels, dtype="float32"),
        ReferenceStore.from_arrays(base.features.reshape(20, 6)[::-1], base.losses, base.labels),
    ]
    fingerprints = {base.fingerprint, *(other.fingerprint for other in others)}
    assert len(fingerprints) == 7
    assert all(len(bytes.fromhex(value)) == 32 for value in fingerprints)


def test_a_saved_store_pickles_as_its_path(tmp_path):
    store = a_store(shape=(1000, 50)).save(tmp_path)
    data = pickle.dumps(store)
    assert len(data) < 500
    again = pickle.loads(data)
    assert again.path == store.path
    assert again.features.tobytes() == store.features.tobytes()
    a_store(seed=1).save(tmp_path)
    with pytest.raises(StoreError, match="replaced since it was pickled"):
        pickle.loads(data)


def test_a_relative_path_is_pickled_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(a_store().save("here"))
    monkeypatch.chdir("/")
    assert len(pickle.loads(data)) == 20


def test_a_store_in_memory_pickles_with_its_arrays():
    store = a_store()
    again = pickle.loads(pickle.dumps(store))
    assert again.fingerprint == store.fingerprint
    assert again.path is None


def test_saving_again_replaces_or_reuses(tmp_path):
    old = a_store(seed=0).save(tmp_path)
    inode = (tmp_path / "features.npy").stat().st_ino
    a_store(seed=0).save(tmp_path)
    assert (tmp_path / "features.npy").stat().st_ino == inode  # nothing was written
    new = a_store(seed=1, shape=(30, 4)).save(tmp_path)
    assert ReferenceStore.open(tmp_path).fingerprint == new.fingerprint == a_store(seed=1, shape=(30, 4)).fingerprint
    assert len(contents(tmp_path)) == 4  # the old files are gone …
    np.testing.assert_array_equal(old.features, a_store(seed=0).features)  # … and still readable where they were open
    new.save(tmp_path)
    assert len(ReferenceStore.open(tmp_path)) == 30


def test_saving_over_a_damaged_store_repairs_it(tmp_path):
    a_store().save(tmp_path)
    flip(tmp_path / "labels.npy", 150)
    assert ReferenceStore.open(a_store().save(tmp_path).path, verify=True).fingerprint == a_store().fingerprint
    (tmp_path / "manifest.json").write_text((tmp_path / "manifest.json").read_text()[:300])
    a_store().save(tmp_path)
    assert ReferenceStore.open(tmp_path, verify=True).fingerprint == a_store().fingerprint
    assert len(contents(tmp_path)) == 4


def test_other_peoples_files_are_not_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    a_store().save(tmp_path)
    a_store(seed=1).save(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    for name in ("features.npy", "manifest.json"):
        other = tmp_path / name.replace(".", "-")
        other.mkdir()
        (other / name).write_text("mine")
        with pytest.raises(StoreError, match=f"holds {name}, which no store of ours wrote"):
            a_store().save(other)
        assert (other / name).read_text() == "mine"
        assert contents(other) == [name]


def test_checking_and_opening_take_no_more_memory_than_a_few_blocks(tmp_path):
    shape = (60_000, 512)  # 61 MB of float16
    values = np.ones(shape, "f2")
    store = ReferenceStore.from_arrays(values)
    saved = store.save(tmp_path)
    del values, store
    tracemalloc.start()
    try:
        ReferenceStore.open(tmp_path, verify=True)
        ReferenceStore.from_arrays(saved.features)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6


def test_it_says_what_it_is(tmp_path):
    assert repr(a_store()) == "ReferenceStore(20 x 6 float16, losses, labels, in memory)"
    assert repr(ReferenceStore.from_arrays(np.eye(3)).save(tmp_path)) == f"ReferenceStore(3 x 3 float32, {tmp_path})"


@pytest.mark.parametrize("package", ["safetensors", "pyarrow"])
@pytest.mark.parametrize("columns", [(), ("losses", "labels")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_exchange_files_carry_the_same_bits(tmp_path, package, columns, dtype):
    pytest.importorskip(package)
    kind = {"safetensors": "safetensors", "pyarrow": "parquet"}[package]
    full = a_store(dtype=dtype)
    store = ReferenceStore.from_arrays(full.features, **{name: getattr(full, name) for name in columns})
    getattr(store, f"to_{kind}")(tmp_path / "file")
    assert contents(tmp_path) == ["file"]
    assert getattr(ReferenceStore, f"from_{kind}")(tmp_path / "file").fingerprint == store.fingerprint
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:-40])
    with pytest.raises((StoreError, ArgumentError)):
        getattr(ReferenceStore, f"from_{kind}")(tmp_path / "file")


def test_exchange_files_are_checked_like_any_input(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({"features": np.array([[1.0, np.nan]])}, tmp_path / "a")
    with pytest.raises(ArgumentError, match="row 0"):
        ReferenceStore.from_safetensors(tmp_path / "a")
    save_file({"x": np.eye(2)}, tmp_path / "b")
    with pytest.raises(StoreError, match="needs at least 'features'"):
        ReferenceStore.from_safetensors(tmp_path / "b")


def test_what_an_exchange_file_holds_instead_of_features_is_named(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({"x": np.eye(2), "labels": np.eye(2)}, tmp_path / "a")
    with pytest.raises(StoreError, match=r"a holds 'labels', 'x'; a store needs at least 'features'"):
        ReferenceStore.from_safetensors(tmp_path / "a")
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({f"c{number:02d}": [1] for number in range(30)}), tmp_path / "b")
    with pytest.raises(StoreError, match=r"b holds 'c00', .*'c09' and 20 more; a store needs at least 'features'"):
        ReferenceStore.from_parquet(tmp_path / "b")
    parquet.write_table(arrow.table({}), tmp_path / "c")
    with pytest.raises(StoreError, match="c holds nothing; a store needs"):
        ReferenceStore.from_parquet(tmp_path / "c")


def test_a_directory_of_parquet_files_has_no_order(tmp_path):
    """Its files would be read as part-0, part-1, part-10, part-11, part-2, …, or grouped by the partitioned column."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"features": [[float(row)] for row in range(1, 13)], "labels": [0, 1, 2] * 4})
    (tmp_path / "parts").mkdir()
    for part in range(12):
        parquet.write_table(table.slice(part, 1), tmp_path / "parts" / f"part-{part}.parquet")
    parquet.write_to_dataset(table, tmp_path / "classes", partition_cols=["labels"])
    (tmp_path / "alias").symlink_to(tmp_path / "parts")
    for name in ("parts", "classes", "alias"):
        for path in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(StoreError, match=r"is a directory.*Pass one Parquet file, or concatenate the parts"):
                ReferenceStore.from_parquet(path)
        with pytest.raises(StoreError):
            ReferenceStore.from_parquet((tmp_path / name).as_uri())
    only = next((tmp_path / "classes" / "labels=1").iterdir())
    assert ReferenceStore.from_parquet(only).labels is None  # a file says what is in it, its folder does not
    parquet.write_table(table, tmp_path / "one", row_group_size=2)
    assert ReferenceStore.from_parquet(tmp_path / "one").features.ravel().tolist() == list(range(1, 13))


def test_columns_of_features_that_are_no_matrix(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def read(column):
        parquet.write_table(arrow.table({"features": column}), tmp_path / "file")
        return ReferenceStore.from_parquet(tmp_path / "file")

    tensors = arrow.FixedShapeTensorArray.from_numpy_ndarray(np.ones((3, 2)))
    for column in ([1.0, 2.0], [1, 2], ["a", "b"], [True, False], [{"x": 1.0}, {"x": 2.0}], tensors):
        with pytest.raises(StoreError, match=r"has features of type .*; a store needs a list of numbers per row\. Put"):
            read(column)
    fixed = arrow.array([[1.0, 2.0], None, [3.0, 4.0]], arrow.list_(arrow.float64(), 2))
    for column in ([[1.0], [1.0, 2.0]], [[1.0], None], [[1.0, 2.0], None, [1.0]], fixed):
        with pytest.raises(StoreError, match="missing or differ in length"):
            read(column)
    for kind in (arrow.list_, arrow.large_list, arrow.list_view):
        assert read(arrow.array([[1.0, 2.0], [3.0, 4.0]], kind(arrow.float32()))).width == 2


@pytest.mark.parametrize(("package", "kind"), [("safetensors.numpy", "safetensors"), ("pyarrow", "parquet")])
def test_a_missing_package_names_the_pip_line(tmp_path, monkeypatch, package, kind):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package.split('.')[0]}"):
        getattr(a_store(), f"to_{kind}")(tmp_path / "file")
