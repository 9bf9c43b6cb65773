"""One rank of tests/test_gathering.py."""

import numpy as np
import torch
from torch import distributed

from spectral_sampler import ArgumentError, SpectralBatchSampler, Uniform
from spectral_sampler.gathering import gathered, wanted

SIZES = (3, 0, 5, 1)
CAPACITY = 4  # rank 2 of four has more
DTYPES = ("float16", "bfloat16", "float32", "float64", "int32", "int64")


def given(rank, dtype):
    """Deterministic pairs of a rank; indices need all 64 bits, losses all digits of their dtype."""
    count = SIZES[rank]
    indices = torch.arange(count) * 2**60 + rank
    losses = (torch.arange(count) + rank + 1).double() / 3 * (100 if dtype.startswith("int") else 1)
    losses = losses.to(getattr(torch, dtype))
    if count and not dtype.startswith("int"):
        losses[0] = float("nan") if rank == 0 else float("inf")
    return indices, losses


def told(pairs):
    indices, losses = pairs
    assert indices.dtype == np.int64
    assert losses.dtype == np.float64
    return [indices.tolist(), [loss.hex() for loss in losses.tolist()]]


def error_of(*bad):
    try:
        gathered(*bad, capacity=2)
    except Exception as error:  # noqa: BLE001 - told to the parent
        return f"{type(error).__name__}: {error}"
    return None


def next_of(rank):
    """What ``observe_next`` says where rank 1 has no batch left to report."""
    sampler = SpectralBatchSampler(np.ones((64, 1)), 16, selection=Uniform(), num_replicas=distributed.get_world_size())
    batch = next(iter(sampler))
    losses = np.ones(len(batch) + (rank == 1))
    try:
        sampler.observe_next(losses)
    except ArgumentError as error:
        return str(error)
    return None


def found(rank, ranks):
    calls = []
    name = "all_gather_single" if hasattr(distributed, "all_gather_single") else "all_gather_into_tensor"
    plain = getattr(distributed, name)

    def counting(output, given):
        calls.append(len(given))
        return plain(output, given)

    setattr(distributed, name, counting)
    results = {dtype: told(gathered(*given(rank, dtype), capacity=CAPACITY)) for dtype in DTYPES}
    results["collectives"] = list(calls)
    results["roomy"] = told(gathered(*given(rank, "float32"), capacity=64))
    results["empty"] = told(gathered([], [], capacity=2))
    frozen = np.arange(2) + rank
    frozen.flags.writeable = False
    results["lists"] = told(gathered(frozen, [0.1 + rank, torch.tensor(0.5)], capacity=2))
    results["attached"] = told(gathered([rank], torch.ones(1, requires_grad=True) * 2, capacity=1))
    for name, bad in {"too few": ([7, 8], [1.0]), "floats": ([0.5], [1.0]), "no array": ([1], [object()])}.items():
        results[name] = error_of(*(bad if rank == 1 else ([rank], [1.0])))
    results["nothing to report"] = next_of(rank)
    results["after"] = told(gathered([rank], [1.0], capacity=2))
    results["wanted"] = [wanted(None, ranks), wanted(None, 1), wanted(True, 1), wanted(False, ranks)]
    return results
