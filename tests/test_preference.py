"""The rule behind "auto", a pure function of a table and a problem."""

import json

import pytest
from processes import python

from spectral_sampler import ops, preference
from spectral_sampler.errors import ArgumentError
from spectral_sampler.preference import LARGE, Row, fitting, move

ANY = Row("Card", "host", None, None, 1, ("triton", "native"), "2027-01-01, Card")


def test_the_installed_table_serves_every_size_and_moves_only_to_what_was_measured():
    rows = preference.parsed(preference.INSTALLED.read_text(encoding="utf-8"))
    for device, store in (("cpu", "host"), ("cuda", "device")):
        assert next(fitting(rows, (device,), store, 10**9, 10**9, 1)).order
    assert {name for row in rows for name in row.order} <= set(ops.BACKENDS)
    measured = {row.device for row in rows if row.measured and row.store == "host"} - {"cpu"}
    assert measured == {"NVIDIA H200"}
    assert not move(rows, "NVIDIA H100 80GB HBM3", 1024, 2048, 16, behind=True).pays
    assert move(rows, "NVIDIA H200", 1024, 768, 264).pays
    assert not move(rows, "NVIDIA H200", 128, 2048, 264).pays
    assert move(rows, "NVIDIA H200", 128, 2048, 264, behind=True).pays
    assert not move(rows, "NVIDIA H200", 4096, 768, 264, behind=True).pays  # the CPU was ahead


def test_the_first_row_that_fits_counts_and_a_name_goes_before_a_type():
    small = ANY._replace(max_nodes=128, order=("native",))
    wide = ANY._replace(max_width=64, order=("cuda",))
    many = ANY._replace(members=132, order=("cupy",))
    kind = ANY._replace(device="cuda", order=("eager",))
    rows = (kind, small, wide, many, ANY)

    def order(*problem):
        return next(fitting(rows, ("Card", "cuda"), "host", *problem)).order

    assert order(128, 2048, 200) == ("native",)
    assert order(129, 64, 200) == ("cuda",)
    assert order(129, 65, 132) == ("cupy",)
    assert order(129, 65, 131) == ANY.order
    assert next(fitting(rows, ("Other", "cuda"), "host", 129, 65, 131)).order == ("eager",)
    assert not list(fitting(rows, ("Card", "cuda"), "device", 129, 65, 131))


@pytest.mark.parametrize(
    ("row", "gpu", "nodes", "behind", "pays", "words"),
    [
        (ANY, "Card", LARGE, False, True, "long for a CPU and triton was faster (2027-01-01, Card)"),
        (ANY, "Card", LARGE - 1, False, False, "as long as it keeps up"),
        (ANY, "Card", 2, True, True, "training waits for the CPU and triton"),
        (ANY, None, LARGE, True, False, "does not use a CUDA device"),
        (ANY, "Another", LARGE, True, False, "nothing has been measured on Another"),
        (ANY._replace(measured=None), "Card", LARGE, True, False, "nothing has been measured on Card"),
        (ANY._replace(store="device"), "Card", LARGE, True, False, "nothing has been measured"),
        (ANY._replace(max_nodes=LARGE - 1), "Card", LARGE, True, False, "nothing has been measured"),
        (ANY._replace(max_width=383), "Card", LARGE, True, False, "nothing has been measured"),
        (ANY._replace(members=17), "Card", LARGE, True, False, "nothing has been measured"),
        (ANY._replace(order=("native", "triton")), "Card", LARGE, True, False, "native was the fastest"),
        (ANY._replace(order=("cupy", "native", "triton")), "Card", LARGE, True, False, "native was the fastest"),
        (ANY._replace(order=("cupy",)), "Card", LARGE, True, False, "eager was the fastest"),
    ],
)
def test_the_gpu_is_taken_where_it_was_measured_ahead_and_the_cpu_is_too_slow(row, gpu, nodes, behind, pays, words):
    found = move((row,), gpu, nodes, 384, 16, behind=behind, usable=lambda name: name != "cupy")
    assert found.pays is pays
    assert words in found.reason


GOOD = json.loads(json.dumps(ANY._asdict()))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"rows": [{**GOOD, "order": []}]}),
        json.dumps({"rows": [{**GOOD, "order": ["gpu"]}]}),
        json.dumps({"rows": [{**GOOD, "store": "disk"}]}),
        json.dumps({"rows": [{**GOOD, "members": None}]}),
        json.dumps({"rows": [{**GOOD, "max_nodes": "128"}]}),
        json.dumps({"rows": [{**GOOD, "nodes": 128}]}),
        json.dumps({"rows": [{"device": "cpu"}]}),
    ],
)
def test_what_is_no_table_is_refused_in_one_sentence(text):
    assert preference.parsed(json.dumps({"rows": [GOOD]})) == (ANY,)
    with pytest.raises(ArgumentError, match=r"^SPECTRAL_SAMPLER_PREFERENCE must be a table of backends, got .+\. See "):
        preference.parsed(text)


def test_the_environment_names_another_table(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"rows": [{**GOOD, "device": "cpu", "order": ["eager"]}]}), encoding="utf-8")
    code = "from spectral_sampler import ops; print(ops.resolve('auto', 'cpu'))"
    for name, words in ((path, "eager"), (tmp_path, "SPECTRAL_SAMPLER_PREFERENCE must be a file that can be read")):
        done = python(code, environment={"PATH": "", preference.PREFERENCE_VARIABLE: str(name)})
        assert words in done.stdout + done.stderr
