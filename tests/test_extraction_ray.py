"""Ray's actors make the store that one process makes, to the bit, and go on where one of them died."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from spectral_sampler.errors import ArgumentError
from spectral_sampler.extraction import extract, extract_with_ray, ray_data
from spectral_sampler.extraction.extract import prepared
from spectral_sampler.optional import MissingPackage
from spectral_sampler.store import ReferenceStore

ROWS, BATCH = 200, 16


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 24), nn.Linear(24, 4)

    def forward(self, rows):
        return self.head(self.body(rows).relu())


def made():
    """The same in every process."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    rows = torch.from_numpy(generator.normal(size=(ROWS, 6)).astype("f4"))
    return Network(), TensorDataset(rows, torch.arange(ROWS) % 4)


@pytest.fixture(scope="module")
def cluster():
    """Three CPUs and no more processes than that takes."""
    ray = pytest.importorskip("ray", reason="needs ray")
    pytest.importorskip("ray.data", reason="needs ray[data]")
    here = Path(__file__).parent
    paths = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}}
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=paths)
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's
def test_the_store_is_that_of_one_process(tmp_path, cluster):
    one = extract(*made(), tmp_path / "one", batch_size=BATCH)
    several = extract_with_ray(made, tmp_path / "ray", concurrency=2, batch_size=BATCH)
    assert several.fingerprint == one.fingerprint
    assert several.source == one.source, "an extraction by the other goes on with it, and opens it"
    assert ReferenceStore.open(tmp_path / "ray", verify=True).fingerprint == one.fingerprint
    assert extract(*made(), tmp_path / "ray", batch_size=BATCH).fingerprint == one.fingerprint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_was_done_before_an_actor_died_is_kept(tmp_path, cluster):
    one = extract(*made(), tmp_path / "one", batch_size=BATCH)
    batches, killed = tmp_path / "batches", tmp_path / "killed"

    def dying():
        """The first actor that gets to its third batch is killed, once."""
        model, dataset = made()
        seen = []

        def note(*_):
            seen.append(1)
            with batches.open("a") as file:
                file.write("x")
            if len(seen) == 3 and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), 9)

        model.forward = Watched(model.forward, note)
        return model, dataset

    several = extract_with_ray(dying, tmp_path / "ray", concurrency=1, batch_size=BATCH, version="1")
    assert killed.exists()
    assert np.array_equal(several.features, one.features)
    assert len(batches.read_text()) <= -(-ROWS // BATCH) + 3


class Watched:
    def __init__(self, forward, note):
        self.forward, self.note = forward, note

    def __call__(self, *args):
        self.note()
        return self.forward(*args)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_another_model_in_an_actor_is_refused(tmp_path, cluster):
    def another():
        model, dataset = made()
        nn.init.normal_(model.head.weight)  # of no seed
        torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
        nn.init.normal_(model.head.bias)
        return model, dataset

    with pytest.raises(Exception, match="make\\(\\) gave an actor another model than"):
        extract_with_ray(another, tmp_path / "ray", concurrency=1, batch_size=BATCH)
    assert not (tmp_path / "ray" / "manifest.json").exists()


def test_of_a_share_handed_out_again_only_what_is_missing_is_computed(tmp_path):
    """Ray gives what a dead actor had to another, whole."""
    ours = ("overwrite", "patience")
    options = {name: value for name, value in extract.__kwdefaults__.items() if name not in ours}
    options |= {"batch_size": BATCH, "progress": False}
    job, _ = prepared(*made(), tmp_path, **options)
    batches = []

    def noted():
        model, dataset = made()
        model.forward = Watched(model.forward, lambda: batches.append(1))
        return model, dataset

    identity = job.identity | {"model": prepared(*noted(), tmp_path, **options)[0].identity["model"]}
    for share, computed in (([0, 1, 2], 3), ([0, 1, 2, 3], 4)):
        actor = ray_data._Actor(noted, str(tmp_path), options, identity)
        said = actor({"item": np.array(share)})
        assert said["item"].tolist() == share
        assert len(batches) == computed


def test_refusals(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray.data", None)
    with pytest.raises(MissingPackage, match=r"needs ray, .*pip install 'spectral-sampler\[ray\]'"):
        extract_with_ray(made, tmp_path, concurrency=1)
    monkeypatch.setitem(__import__("sys").modules, "ray.data", object())
    with pytest.raises(ArgumentError, match="concurrency must be"):
        extract_with_ray(made, tmp_path, concurrency=0)
    with pytest.raises(ArgumentError, match=r"options must be arguments of extract \(features, .*got num_replicas"):
        extract_with_ray(made, tmp_path, concurrency=1, num_replicas=2)
