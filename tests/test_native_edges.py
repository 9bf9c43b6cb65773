"""The compiled CPU kernels at their edges: stores of any stride and type, and what the environment asks for."""

from __future__ import annotations

import os

import pytest
import torch
from processes import python

from spectral_sampler import ops
from spectral_sampler.fiedler import fiedler_rows
from spectral_sampler.kernels import native

pytestmark = pytest.mark.skipif(native.unusable_reason() is not None, reason=f"native: {native.unusable_reason()}")


FORMS = ["dense", "factored"]
STORED = [torch.float32, torch.float16, torch.bfloat16]


def same_bits(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def store_of(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(60, 48, generator=generator) + 0.1
    return features.to(dtype), torch.stack([torch.randperm(60, generator=generator)[:40] for _ in range(3)])


# --- how a store lies in memory ---


def copies(store: torch.Tensor, indices: torch.Tensor) -> bool:
    """Does a solve copy the store?"""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        native.solve(store, indices)
    return "aten::copy_" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize(
    ("part", "copied"),
    [
        (lambda store: store[:, :37], False),
        (lambda store: store[:, 5:], False),
        (lambda store: store[:, 3:4], False),
        (lambda store: store[::1], False),
        (lambda store: torch.cat((store, store))[::2], False),
        (lambda store: store[:1].expand(60, 48), False),
        (lambda store: store[:, ::2], True),
        (lambda store: store.T.contiguous().T, True),
    ],
    ids=[
        "first columns",
        "last columns",
        "one column",
        "whole",
        "every other row",
        "one row",
        "every other column",
        "T",
    ],
)
def test_rows_are_read_where_they_lie(part, copied, dtype):
    """Only where the features of a row do not lie side by side is a store copied, and the bits are the same."""
    store, indices = store_of(dtype)
    store = part(store)
    for form in FORMS:
        expected = native.solve(store.clone(memory_format=torch.contiguous_format), indices, form=form)
        assert same_bits(native.solve(store, indices, form=form), expected)
    whole = store.clone(memory_format=torch.contiguous_format)
    assert same_bits(native.cosine_graph(store, indices), native.cosine_graph(whole, indices))
    assert copies(store, indices) == copied


# --- bfloat16 ---

BFLOAT16 = """
import torch
from spectral_sampler.kernels import native
patterns = torch.arange(0x7F80, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
store = torch.cat((patterns, -patterns)).reshape(-1, 255)
store = store[(store != 0).any(dim=1)]
indices = torch.arange(len(store))[None]
for form in ("dense", "factored"):
    one, other = native.solve(store, indices, form=form), native.solve(store.float(), indices, form=form)
    assert all(torch.equal(a, b) for a, b in zip(one, other)), form
    assert not int(one.status[0]) & 8, form
one, other = native.cosine_graph(store, indices), native.cosine_graph(store.float(), indices)
assert all(torch.equal(a, b) for a, b in zip(one, other))
print(native.instruction_set())
"""


@pytest.mark.parametrize("name", ["baseline", "avx2", "avx512"])
def test_bfloat16_rows_are_read_exactly(name):
    """Every finite one, subnormals included: from its own storage and from float32, the same bits."""
    found = run(BFLOAT16, SPECTRAL_SAMPLER_CPU=name).strip()
    assert found in (name, native.instruction_set(), "baseline")


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("form", FORMS)
def test_poisoned_bfloat16_member_is_alone(poison, form):
    store, indices = store_of(torch.bfloat16)
    indices = indices.clamp(max=58)
    clean = native.solve(store, indices, form=form)
    store[59, 7] = poison
    indices[1, 20] = 59
    marked = native.solve(store, indices, form=form)
    assert marked.status.tolist()[1] == 8
    assert all(same_bits([a[[0, 2]]], [b[[0, 2]]]) for a, b in zip(marked, clean, strict=True))


def test_bfloat16_store_is_solved_natively():
    store, indices = store_of(torch.bfloat16)
    assert ops.resolve(None, "cpu", torch.bfloat16) == "native"
    assert ops.resolve(None, "cpu", torch.float64) == "eager"
    assert same_bits(fiedler_rows(store, indices)[:6], native.solve(store, indices)[:6])
    with pytest.raises(RuntimeError, match=r"bfloat16, float16, float32 features and these are float64"):
        fiedler_rows(store.double(), indices, backend="native")


@pytest.mark.parametrize("operator", ["fiedler", "cosine_graph"])
def test_opcheck_of_a_sliced_bfloat16_store(operator):
    store, indices = store_of(torch.bfloat16)
    torch.library.opcheck(getattr(torch.ops.spectral_sampler, operator).default, (store[:, :30], indices))


# --- threads ---


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("members", "size"), [(1, 300), (3, 600), (2, 2100)])
def test_bits_do_not_depend_on_threads_that_help_each_other(members, size, form):
    """More threads than members, and fewer: who does which piece of a loop is left to chance."""
    generator = torch.Generator().manual_seed(size)
    store = torch.rand(size + 100, 130, generator=generator)
    indices = torch.stack([torch.randperm(size + 100, generator=generator)[:size] for _ in range(members)])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = native.solve(store, indices, form=form)
        each = [native.solve(store, row[None], form=form) for row in indices]
        assert same_bits(alone, [torch.cat(field) for field in zip(*each, strict=True)])
        for threads in (2, 3, 9):
            torch.set_num_threads(threads)
            assert all(same_bits(alone, native.solve(store, indices, form=form)) for _ in range(3))
    finally:
        torch.set_num_threads(before)


# --- the environment ---

REFUSALS = """
import torch, spectral_sampler
store, indices = torch.rand(9, 4), torch.arange(8).reshape(2, 4)
calls = [spectral_sampler.explain, lambda: spectral_sampler.fiedler_vector(store)]
operators = torch.ops.spectral_sampler
calls += [lambda: operators.fiedler(store, indices), lambda: operators.cosine_graph(store, indices)]
for call in calls:
    try:
        call()
    except ValueError as error:
        print(error)
"""


def run(code: str, **environment: str) -> str:
    done = python(code, environment={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unknown_instruction_set_is_refused():
    """Where the extension is loaded, and by operators that are called all the same."""
    rule = "SPECTRAL_SAMPLER_CPU must be baseline, avx2 or avx512, got AVX2."
    sentence = f"{rule} Unset it to use the best that this processor has."
    assert run(REFUSALS, SPECTRAL_SAMPLER_CPU="AVX2").splitlines() == [sentence] * 4


def test_no_instruction_set_is_no_limit():
    code = "from spectral_sampler.kernels import native; print(native.instruction_set())"
    assert run(code, SPECTRAL_SAMPLER_CPU="").strip() == native.instruction_set()
