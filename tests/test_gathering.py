"""gathered(): every rank's losses on every rank, exactly, and no rank left waiting."""

import math

import gathering_worker as cases
import pytest
import torch
from ranks import ranked

from spectral_sampler import ArgumentError, gathering
from spectral_sampler.gathering import pairs, wanted


@pytest.fixture(scope="module", params=[2, 4])
def found(request, tmp_path_factory):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without distributed")
    return ranked(cases.found, request.param, tmp_path_factory.mktemp("ranks"))


def union(ranks, dtype):
    parts = [cases.given(rank, dtype) for rank in range(ranks)]
    return [
        [v for part in parts for v in part[0].tolist()],
        [v.hex() for part in parts for v in part[1].double().tolist()],
    ]


def test_every_rank_has_the_pairs_of_all_in_rank_order(found):
    for dtype in cases.DTYPES:
        expected = union(len(found), dtype)
        assert all(rank[dtype] == expected for rank in found), dtype
    assert found[0]["roomy"] == union(len(found), "float32")
    assert any(math.isnan(float.fromhex(loss)) for loss in found[0]["roomy"][1])


def test_a_second_collective_follows_only_where_a_rank_has_more_than_the_capacity(found):
    first, second = 1 + 2 * cases.CAPACITY, 1 + 2 * max(cases.SIZES)
    for rank in found:
        assert rank["collectives"] == ([first] if len(found) == 2 else [first, second]) * len(cases.DTYPES)


def test_no_pairs_lists_read_only_arrays_and_losses_with_a_graph(found):
    for rank in found:
        assert rank["empty"] == [[], []]
        assert rank["lists"][0] == [i for r in range(len(found)) for i in (r, r + 1)]
        assert [float.fromhex(v) for v in rank["lists"][1]] == [v for r in range(len(found)) for v in (0.1 + r, 0.5)]
        assert rank["attached"] == [list(range(len(found))), [(2.0).hex()] * len(found)]


def test_a_rank_that_is_refused_leaves_no_other_waiting(found):
    own = {
        "too few": "ArgumentError: losses must be one value for each of the 2 indices, got 1 values.",
        "floats": "ArgumentError: indices must be integers, got dtype torch.float64.",
        "no array": "TypeError: ",
    }
    for name, sentence in own.items():
        for number, rank in enumerate(found):
            assert rank[name].startswith(sentence if number == 1 else "ArgumentError: losses must be one loss for each")
            assert number == 1 or "got others on ranks [1]" in rank[name]
    for number, rank in enumerate(found):
        own = (
            "losses must be one loss for each of the"
            if number == 1
            else "losses must be one loss for each of the indices"
        )
        assert rank["nothing to report"].startswith(own)
    assert found[0]["after"][0] == list(range(len(found)))


def test_gathering_is_wanted_with_a_process_group_and_several_replicas(found):
    assert found[0]["wanted"] == [True, False, True, False]


def test_without_a_process_group():
    assert not wanted(None, 2)
    assert not wanted(False, 2)
    with pytest.raises(ArgumentError, match=r"^gather must be None or False without a process group, got True\. Call "):
        wanted(True, 2)
    with pytest.raises(ArgumentError, match=r"^gather must be True or False, got 'all'"):
        wanted("all", 2)


@pytest.mark.parametrize(
    ("backends", "place"),
    [("cpu:gloo,cuda:gloo,xpu:gloo", "cpu"), ("cpu:gloo,cuda:nccl", "cpu"), ("cuda:nccl", "cuda"), ("xpu:xccl", "xpu")],
)
def test_the_collective_runs_where_the_group_serves_it(monkeypatch, backends, place):
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda: backends)
    assert gathering._place() == torch.device(place)  # without an index: the current one


def test_pairs_are_flat_and_stay_where_they_are():
    rows, losses = pairs([[3], [1]], torch.tensor([[0.5], [2.5]], dtype=torch.bfloat16, requires_grad=True))
    assert rows.tolist() == [3, 1]
    assert losses.dtype == torch.bfloat16
    assert not losses.requires_grad
    assert [len(column) for column in pairs([], [])] == [0, 0]
    with pytest.raises(ArgumentError, match=r"^indices must be integers, got dtype torch\.bool"):
        pairs([True], [0.5])
