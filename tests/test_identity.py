"""What a store was made of: the same for the same in any process, another for another function, label or sample."""

import array
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import logging
import operator
import os
import pathlib
import subprocess
import sys
import threading
import types
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch
from processes import python
from torch import nn
from torch.nn import functional
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, default_collate

from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.extraction import extract
from spectral_sampler.extraction.content import Content, Unreadable
from spectral_sampler.extraction.identity import RECORD, function_hashes, labels_hash, model_hash
from spectral_sampler.indexed import Indexed
from spectral_sampler.store import ReferenceStore

ROWS = 200


def content(value):
    return Content().hexdigest(value)


def behaviour(function):
    return Content(opaque=True, code=True).hexdigest(function)


# Functions

SOURCE = '''
import dataclasses, functools, operator
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

COLUMN = {n}
NAMES = {{0: {n}, 1: 7}}
def helper(b): return b[{n}]
def constant(b): return b[0], b[{n}]
def names_a_global(b): return b[0], b[COLUMN]
def names_a_mapping(b): return b[0], NAMES[b[1]]
def calls(b): return b[0], helper(b)
def calls_deeply(b): return calls(b)
def default(b, c={n}): return b[0], b[c]
def keyword_default(b, *, c={n}): return b[0], b[c]
def make(c):
    def inner(b): return b[0], b[c]
    return inner
closure = make({n})
nested = lambda b: [(lambda x: x[{n}])(y) for y in b]
in_a_set = lambda b: b in {{"a", "b", "c", "k{n}"}}
partial = functools.partial(default, c={n})
def recursive(b, n=0): return recursive(b, n + 1) if n < {n} else b
def even(n): return n == {n} or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
def attribute(b): return b.x{n}
def handles(b):
    try: return b[0]
    except KeyError: return {n}
class Stateful:
    def __init__(self, c): self.c = c
    def __call__(self, b): return b[self.c]
    def method(self, b): return b[self.c]
    @classmethod
    def of_the_class(cls, b): return b[{n}]
stateful = Stateful({n})
bound = Stateful({n}).method
of_the_class = Stateful.of_the_class
class Base:
    def __call__(self, b): return self.go(b)
    def go(self, b): return b[{n}]
class Derived(Base): pass
derived = Derived()
@dataclasses.dataclass
class Options:
    column: int = {n}
def with_options(b): return b[Options().column]
@torch.no_grad()
def decorated(b): return b[{n}]
@functools.lru_cache
def cached(b): return b[{n}]
@functools.wraps(helper)
def wrapping(*a): return helper(*a)
item = operator.itemgetter(0, {n})
smoothed = nn.CrossEntropyLoss(reduction="none", label_smoothing={n} / 10)
weighed = nn.CrossEntropyLoss(reduction="none", weight=torch.ones(3) * {n})
ignoring = nn.CrossEntropyLoss(reduction="none", ignore_index={n})
smoothed_partial = functools.partial(F.cross_entropy, reduction="none", label_smoothing={n} / 10)
class Focal(nn.Module):
    def forward(self, o, l): return F.cross_entropy(o, l, reduction="none") ** {n}
focal = Focal()
builtin = (torch.relu, torch.tanh)[{n} - 1]
of_a_mapping = {{"a": {n}}}.get
'''  # fmt: skip
FUNCTIONS = [
    *(
        "constant",
        "names_a_global",
        "names_a_mapping",
        "calls",
        "calls_deeply",
        "default",
        "keyword_default",
        "closure",
    ),
    *("nested", "in_a_set", "partial", "recursive", "even", "attribute", "handles", "stateful", "bound"),
    *("of_the_class", "derived", "with_options", "decorated", "cached", "wrapping", "item", "smoothed", "weighed"),
    *("ignoring", "smoothed_partial", "focal", "builtin", "of_a_mapping"),
]


def module_of(number, lines=0):
    """A user's module, as if imported; ``lines`` further down in another file."""
    module = types.ModuleType("of_a_user")
    exec(compile("\n" * lines + SOURCE.format(n=number), f"/nowhere/{lines}.py", "exec"), module.__dict__)  # noqa: S102
    return module


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_what_it_does(name):
    first, moved, other = (behaviour(vars(module)[name]) for module in (module_of(1), module_of(1, 9), module_of(2)))
    assert first == moved != other


def test_what_is_installed_counts_by_its_name_and_settings():
    found = [default_collate, functional.cross_entropy, torch.relu, len, str.upper, np.stack, np.sin, dict, nn.ReLU()]
    assert len({behaviour(function) for function in found}) == len(found)
    assert function_hashes({"collate_fn": default_collate, "split": None})["python"] is None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert function_hashes({"split": lambda batch: batch})["python"] == version
    assert function_hashes({"split": None}) == {"split": None, "python": None}


def test_state_that_cannot_be_read_is_no_obstacle_to_a_function():
    held = threading.Lock()

    def locked(batch):
        with held:
            return batch

    assert behaviour(locked) == behaviour(locked)
    assert behaviour(torch.compile(locked)) == behaviour(torch.compile(locked)) != behaviour(torch.compile(len))


def test_ranks_that_name_their_own_device_agree():
    def on(device):
        return lambda batch: (batch[0].to(device), batch[1])

    assert behaviour(on("cuda:0")) == behaviour(on("cuda:1")) != behaviour(on("cpu"))
    assert behaviour(on(torch.device("cuda", 0))) == behaviour(on(torch.device("cuda", 1)))
    assert behaviour(on(torch.device("cuda", 0))) != behaviour(on(torch.device("cpu")))


PROGRAM = """
import sys
sys.path[:0] = {paths!r}
from test_identity import FUNCTIONS, behaviour, content, module_of, samples
from spectral_sampler.extraction.identity import model_hash
module = module_of(1)
for name in FUNCTIONS:
    print(name, behaviour(vars(module)[name]))
for name, value in samples(0).items():
    print(name, content(value))
"""


def test_hashes_are_the_same_in_other_processes():
    here = pathlib.Path(__file__).parent
    program = PROGRAM.format(paths=[str(here), str(here.parent)])
    environment = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    fixed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    said = [fixed.stdout, python(program).stdout]  # of another seed: it is drawn by chance there
    assert said[0] == said[1]
    module = module_of(1)
    lines = dict(line.split() for line in said[0].splitlines())
    assert len(lines) == len(FUNCTIONS) + len(samples(0))
    assert all(lines[name] == behaviour(vars(module)[name]) for name in FUNCTIONS)


# Samples


class Plain:
    def __init__(self, part):
        self.part = part


class Slots:
    __slots__ = ("__weakref__", "part")

    def __init__(self, part):
        self.part = part


@dataclasses.dataclass
class Record:
    part: object


class Pair(NamedTuple):
    a: int
    b: int


class Colour(enum.Enum):
    RED, GREEN = 1, 2


class Graph:
    """Refers to itself from everywhere, as graphs of molecules do: 12! paths, if each were followed."""

    def __init__(self, part):
        self.part, self.nodes = part, [Plain(number) for number in range(12)]
        self.owner = weakref.ref(self)
        for node in self.nodes:
            node.neighbours = list(self.nodes)


class Extended(dict):
    pass


def objects(*parts):
    found = np.empty(len(parts), object)
    found[:] = parts
    return found


def samples(n):
    """Samples of many kinds, with different content for another ``n``."""
    extended, cycle = Extended(a=1), [n]
    extended.label = n
    cycle.append(cycle)
    fields = np.zeros(3, [("a", "u1"), ("b", "f8")])
    fields["b"] = n
    complex_numbers = torch.tensor([1 + 1j * (n + 1), 2])
    return {
        "objects": objects(f"text {n}", 1.5),
        "ragged": objects(np.arange(3) + n, np.arange(4)),
        "set": {f"{n}", "b", "c", "d", "e"},
        "frozenset": frozenset({("x", n), ("y", 2), ("z", 3)}),
        "coordinates": torch.eye(3).mul(n + 1).to_sparse(),
        "jagged": torch.nested.nested_tensor([torch.ones(2) * n, torch.ones(3)], layout=torch.jagged),
        "conjugated": complex_numbers.conj(),
        "negated": complex_numbers.conj().imag,
        "transposed": torch.arange(6).reshape(2, 3).t() + n,
        "bfloat16": torch.ones(3, dtype=torch.bfloat16) * n,
        "object": Plain(torch.ones(9000) * n),
        "slots": Slots(np.arange(9000) + n),
        "dataclass": Record(torch.cat([torch.zeros(5000), torch.ones(1) * n, torch.zeros(5000)])),
        "graph": Graph(torch.ones(3) * n),
        "cycle": cycle,
        "mapping": extended,
        "ordered": collections.OrderedDict(a=n),
        "named": Pair(n, 2),
        "deque": collections.deque([n]),
        "dates": (dt.date(2000, 1, 1 + n), dt.timedelta(n), np.datetime64("2000-01-01") + n),
        "moment": dt.datetime(2000, 1, 1 + n, tzinfo=dt.timezone.utc),
        "decimal": decimal.Decimal(n),
        "enum": Colour(1 + n),
        "path": pathlib.PurePosixPath(f"/data/{n}"),
        "none": (None, n, True, "", b"", ...),
        "deep": [{"a": {"b": (1, {n})}}],
        "fields": fields,
        "masked": np.ma.masked_array([n, 5], [0, 1]),
        "long": np.array([n], np.longdouble),
        "array": array.array("i", [n]),
        "function": (lambda x: x) if n else (lambda x: x + 1),
        "numbers": [10**5000 + n],
    }


@pytest.mark.parametrize("name", samples(0))
def test_a_sample_is_its_content(name):
    first, again, other = (content(samples(n)[name]) for n in (0, 0, 1))
    assert first == again != other


def test_values_that_look_alike_are_not_alike():
    alike = [1, 1.0, True, "1", b"1", np.int64(1), np.float32(1), np.int32(1), torch.tensor(1), [1], {1}, {1: 1}]
    alike += [{"1": 1}, {1: "1"}, [[1], []], [[], [1]], torch.ones(1, 2), torch.ones(2, 1), Plain(1), Slots(1)]
    assert len({content(value) for value in alike}) == len(alike)
    assert content({"a": 1, "b": 2}) == content({"b": 2, "a": 1})


def test_sharing_is_no_content():
    part, cyclic = Plain(1), []
    cyclic.append(cyclic)
    again = []
    again.append(again)
    assert content([part, part]) == content([part, Plain(1)])
    assert content([cyclic, cyclic, 1]) == content([cyclic, again, 1])


def test_rows_of_tables_and_images():
    pandas, image = pytest.importorskip("pandas"), pytest.importorskip("PIL.Image")

    def row(n):
        return pandas.DataFrame({"a": [n, 2], "b": ["x", "y"], "c": [None, 1.5]}).iloc[0]

    for make in (
        row,
        lambda n: pandas.DataFrame({"a": [n, 2], "b": ["x", "y"]}),
        lambda n: pandas.Series(["a", "b" if n else "a"], dtype="category"),
        lambda n: pandas.Timestamp(2000, 1, 1 + n),
        lambda n: pandas.Series([1], index=[n]),
        lambda n: image.fromarray(np.full((4, 4), n, np.uint8)),
    ):
        assert content(make(0)) == content(make(0)) != content(make(1))


@pytest.mark.parametrize(
    "make", [object, threading.Lock, lambda: iter([1]), lambda: (i for i in [1]), type("E", (), {})]
)
def test_what_has_no_content_is_not_guessed(make):
    with pytest.raises(Unreadable):
        content([make()])
    with pytest.raises(Unreadable):
        content(torch.ones(3, device="meta"))
    assert Content(opaque=True).hexdigest(make()) == Content(opaque=True).hexdigest(make())


def test_what_is_nested_too_deeply_is_named(tmp_path):
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(
        ArgumentError, match=r"whose content can be read, got a builtins\.tuple nested too deeply in sample"
    ):
        extract(a_model(), Samples(lambda index: deep), tmp_path, collate_fn=first)
    with pytest.raises(ArgumentError, match="split must be a function of variables that can be read"):
        extract(a_model(), Samples(lambda index: 0), tmp_path, split=lambda batch: (batch[0], deep))


class Samples(Dataset):
    """``samples[i]`` made anew at every reading, beside features (4,) and a label."""

    def __init__(self, make, rows=6):
        self.make, self.rows = make, rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return torch.ones(4) * (index + 1), index % 3, self.make(index)


def a_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def first(samples):
    return default_collate([sample[:2] for sample in samples])


def test_data_sets_of_objects_are_extracted_and_told_apart(tmp_path):
    for name in ("objects", "ragged", "set", "object", "dataclass", "graph", "coordinates"):
        made = [extract(a_model(), Samples(lambda i, k=name: samples(0)[k]), tmp_path / name, collate_fn=first)]
        made.append(extract(a_model(), Samples(lambda i, k=name: samples(0)[k]), tmp_path / name, collate_fn=first))
        assert made[0].fingerprint == made[1].fingerprint
        with pytest.raises(StoreError, match=r"\(probes differ\)"):
            extract(a_model(), Samples(lambda i, k=name: samples(1)[k]), tmp_path / name, collate_fn=first)


def test_augmentation_inside_an_object_is_refused(tmp_path):
    dataset = Samples(lambda index: Record(torch.cat([torch.zeros(5000), torch.rand(1), torch.zeros(5000)])))
    with pytest.raises(ArgumentError, match="free of random augmentation, got a sample 0"):
        extract(a_model(), dataset, tmp_path, collate_fn=first)


def test_samples_without_visible_content_are_refused_unless_there_is_a_version(tmp_path):
    dataset = Samples(lambda index: object())
    sentence = (
        "dataset must be made of samples whose content can be read, got a builtins.object in sample 0. .*version="
    )
    with pytest.raises(ArgumentError, match=sentence):
        extract(a_model(), dataset, tmp_path, collate_fn=first)
    store = extract(a_model(), dataset, tmp_path, collate_fn=first, version="1")
    assert extract(a_model(), dataset, tmp_path, collate_fn=first, version="1").fingerprint == store.fingerprint
    with pytest.raises(StoreError, match=r"\(version differ\)"):
        extract(a_model(), dataset, tmp_path, collate_fn=first, version="2")


# Models


def test_settings_and_buffers_outside_the_state_are_the_models(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.scale, self.activation, self.rank = a_model(), 2.0, torch.tanh, 0
            self.register_buffer("shift", torch.zeros(1), persistent=False)

    model = Scaled()
    before = model_hash(model)
    assert before == model_hash(Scaled()) == model_hash(model.eval())
    for name, value in (("scale", 3.0), ("activation", torch.relu), ("shift", torch.ones(1))):
        kept = getattr(model, name)
        setattr(model, name, value)
        assert model_hash(model) != before, name
        setattr(model, name, kept)
    model.rank = 1  # or the ranks of one extraction would not find each other
    assert model_hash(model) == before
    with pytest.raises(ArgumentError, match="model must be made of weights that can be read"):
        model_hash(nn.Linear(2, 2, device="meta"))


def test_a_model_stays_where_it_is_without_a_device(tmp_path, monkeypatch):
    def moved(self, *_, **__):
        raise AssertionError("moved")

    monkeypatch.setattr(nn.Module, "to", moved)
    monkeypatch.setattr(nn.Module, "_apply", moved)
    assert len(extract(a_model(), TensorDataset(torch.ones(3, 4), torch.arange(3)), tmp_path, device=None)) == 3


# The whole


def data(rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (2, rows), generator=generator)
    return TensorDataset(torch.randn(rows, 4, generator=generator), *labels)


def by(column):
    return lambda batch: (batch[0], batch[column])


def smoothed(outputs, labels, *, amount):
    return functional.cross_entropy(outputs, labels, reduction="none", label_smoothing=amount)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("split", None, operator.itemgetter(0, 2)),
        ("split", lambda batch: (batch[0], batch[1]), lambda batch: (batch[0], batch[2])),
        ("split", by(1), by(2)),
        ("collate_fn", None, default_collate),
        ("collate_fn", lambda rows: default_collate(rows[::1]), lambda rows: default_collate(rows[:])),
        ("loss", "cross_entropy", functools.partial(smoothed, amount=0.1)),
        ("loss", nn.CrossEntropyLoss(reduction="none"), nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)),
        ("loss", functools.partial(smoothed, amount=0.1), functools.partial(smoothed, amount=0.2)),
        ("features", lambda model, inputs: inputs, lambda model, inputs: inputs + 1),
    ],
)
def test_another_function_is_another_store(tmp_path, name, one, other, caplog):
    first = extract(a_model(), data(), tmp_path, **{name: one})
    with caplog.at_level(logging.INFO):
        assert extract(a_model(), data(), tmp_path, **{name: one}).fingerprint == first.fingerprint
    assert f"opened existing store: {tmp_path}" in caplog.text
    with pytest.raises(StoreError, match=rf"made of something else \({name} differ\)"):
        extract(a_model(), data(), tmp_path, **{name: other})


def test_an_interrupted_extraction_is_not_resumed_with_another_split(tmp_path, caplog):
    class Stopping(TensorDataset):
        reads = 0

        def __getitem__(self, index):
            Stopping.reads += 1
            if Stopping.reads == 128 + 100:  # after the two readings of the probes
                raise KeyboardInterrupt
            return super().__getitem__(index)

    dataset = Stopping(*data().tensors)
    with pytest.raises(KeyboardInterrupt):
        extract(a_model(), dataset, tmp_path, split=by(1), batch_size=20)
    with caplog.at_level(logging.WARNING):
        store = extract(a_model(), dataset, tmp_path, split=by(2), batch_size=20)
    assert "had another split" in caplog.text
    np.testing.assert_array_equal(store.labels, dataset.tensors[2].numpy())


def test_one_corrected_label_is_seen(tmp_path):
    dataset = data()
    extract(a_model(), dataset, tmp_path)
    dataset.tensors[1][7] = (dataset.tensors[1][7] + 1) % 3  # not among the 64
    with pytest.raises(StoreError, match=r"\(labels differ\)\. Pass another path, or overwrite=True .*from_arrays"):
        extract(a_model(), dataset, tmp_path)


def test_stores_of_earlier_versions_open_and_are_not_taken_for_ours(tmp_path):
    store = extract(a_model(), data(), tmp_path / "new")
    earlier = {name: store.source[name] for name in store.source if name not in {"record", "labels", "split"}}
    ReferenceStore(store.features, store.losses, store.labels, source=earlier).save(tmp_path / "old")
    assert ReferenceStore.open(tmp_path / "old").verify(data()).fingerprint == store.fingerprint
    with pytest.raises(StoreError, match=r"of another version of this package, .* Use it with ReferenceStore\.open"):
        extract(a_model(), data(), tmp_path / "old")
    assert extract(a_model(), data(), tmp_path / "old", overwrite=True).source["record"] == RECORD


# Labels at hand


class Attribute(Dataset):
    def __init__(self, name, labels):
        setattr(self, name, labels)
        self.rows = len(labels)

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        raise AssertionError("read")


class Table:
    """As a Hugging Face data set answers, in so far as it is asked."""

    column_names = ("text", "label")

    def __init__(self, labels):
        self.labels_of_it = labels

    def __len__(self):
        return len(self.labels_of_it)

    def __getitem__(self, key):
        assert key == "label"
        return self.labels_of_it


def paths(labels):
    return [(f"{number}.png", label) for number, label in enumerate(labels)]


KINDS = {
    "targets": lambda labels: Attribute("targets", labels),
    "labels": lambda labels: Attribute("labels", np.array(labels, np.int16)),
    "_labels": lambda labels: Attribute("_labels", torch.tensor(labels)),
    "samples": lambda labels: Attribute("samples", paths(labels)),
    "tensors": lambda labels: TensorDataset(torch.zeros(len(labels), 2), torch.tensor(labels)),
    "tuples": lambda labels: [(torch.zeros(2), label) for label in labels],
    "mappings": lambda labels: [{"x": torch.zeros(2), "label": label} for label in labels],
    "scalars": lambda labels: [(torch.zeros(2), torch.tensor(label)) for label in labels],
    "table": Table,
    "subset": lambda labels: Subset(Attribute("targets", [9, *labels]), range(1, len(labels) + 1)),
    "parts": lambda labels: ConcatDataset([Attribute("targets", labels[:3]), Attribute("labels", labels[3:])]),
    "indexed": lambda labels: Indexed(Attribute("targets", labels)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_read_where_they_lie(kind):
    labels = [number % 4 for number in range(150)]
    corrected = [*labels[:77], 3, *labels[78:]]
    hashes = [labels_hash(KINDS[kind](given)) for given in (labels, list(labels), corrected)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert None not in hashes


def test_what_are_no_labels_is_not_taken_for_them():
    for dataset in (
        Attribute("targets", ["a", "b"]),
        Attribute("targets", [0.5, 1.5]),
        Attribute("targets", [[0, 1], [1, 0]]),
        [torch.zeros(2), torch.ones(2)],
        TensorDataset(torch.zeros(4)),
        TensorDataset(torch.zeros(4), torch.rand(4)),
    ):
        assert labels_hash(dataset) is None


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda model: torch.compile(nn.DataParallel(model))])
def test_a_model_compiled_or_shared_out_is_the_same_model(tmp_path, wrap):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    samples = [(torch.full((3,), 1.0 + row), row % 2) for row in range(6)]
    first = extract(model, samples, tmp_path, batch_size=np.int64(4), progress=False)
    assert extract(wrap(model), samples, tmp_path, batch_size=4, progress=False).fingerprint == first.fingerprint
    with torch.no_grad():
        model[0].weight[0, 0] += 1
    with pytest.raises(StoreError, match=r"\(model differ\)"):
        extract(wrap(model), samples, tmp_path, batch_size=4, progress=False)


@pytest.mark.parametrize("version", [3, None, ("a", "b"), dt.date(2026, 1, 1)])
def test_a_version_that_is_no_text_is_refused_before_any_work(tmp_path, version):
    with pytest.raises(ArgumentError, match=r"^version must be a text, got .* Pass str\(version\)"):
        extract(nn.Linear(2, 2), [(torch.ones(2), 0)], tmp_path, version=version, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["table", "RecordBatch"])
def test_arrow_tables_are_read_by_schema_and_content(kind):
    arrow = pytest.importorskip("pyarrow")
    make = arrow.table if kind == "table" else arrow.RecordBatch.from_pydict
    hashes = {content(make(columns)) for columns in ({"a": [1, 2]}, {"a": [1, 3]}, {"b": [1, 2]}, {"a": [1.0, 2.0]})}
    assert len(hashes) == 4
    assert content(make({"a": [1, 2]})) in hashes


def test_functions_of_modules_within_modules_are_read(monkeypatch):
    def program(column):
        outer, inner = types.ModuleType("caller"), types.ModuleType("caller.inner")
        outer.inner, inner.outer = inner, outer  # as packages refer to each other
        exec(f"def take(batch): return batch[0], batch[{column}]", vars(inner))  # noqa: S102
        exec("def split(batch): return caller.inner.take(batch)", vars(outer))  # noqa: S102
        outer.caller = outer
        return behaviour(outer.split)

    assert program(1) == program(1) != program(2)


@pytest.mark.parametrize("kept", ["targets", "labels", "_labels"])
def test_labels_beside_pairs_of_something_else_are_seen(tmp_path, kept):
    class Frames(Dataset):
        """``samples`` are pairs of file and place, not of file and class."""

        def __init__(self, labels):
            self.samples = [("film", frame) for frame in range(ROWS)]
            setattr(self, kept, labels)

        def __len__(self):
            return ROWS

        def __getitem__(self, index):
            return torch.full((3,), index + 1.0), getattr(self, kept)[index]

    labels, model = [row % 2 for row in range(ROWS)], nn.Linear(3, 2)
    store = extract(model, Frames(labels), tmp_path, progress=False)
    store.verify(Frames(labels))
    probes = np.linspace(0, ROWS - 1, 64).round().astype(int)
    unread = next(row for row in range(ROWS) if row not in probes)
    corrected = [1 - label if row == unread else label for row, label in enumerate(labels)]
    with pytest.raises(StoreError, match=r"\(labels differ\)"):
        extract(model, Frames(corrected), tmp_path, progress=False)
    with pytest.raises(ArgumentError, match="in 1 of 200 samples"):
        store.verify(Frames(corrected))
