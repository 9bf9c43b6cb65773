"""Statistics in whatever logs, and what an integration says where its framework is missing."""

import math
import warnings

import numpy as np
import pytest
import torch
from processes import python

from spectral_sampler import PlausibleLearnable, ReferenceStore, SpectralBatchSampler, integrations
from spectral_sampler.errors import ArgumentError
from spectral_sampler.optional import optional


@pytest.fixture
def sampler():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(64, 8)).astype(np.float32), np.arange(64) % 4
    store = ReferenceStore.from_arrays(features, losses=random.gamma(1.0, size=64), labels=labels)
    sampler = SpectralBatchSampler(store, 16, selection=PlausibleLearnable())
    batch = next(iter(sampler))
    sampler.observe_next(torch.ones(len(batch)))
    return sampler


def test_statistics_go_to_a_function_of_a_dictionary_and_a_step(sampler):
    told = []
    integrations.log_statistics(sampler, lambda values, step: told.append((values, step)), 7)
    ((values, step),) = told
    assert step == 7
    assert values["spectral/kept"] == sampler.statistics()["spectral/kept"] > 0
    assert all(name.startswith("spectral/") and math.isfinite(value) for name, value in values.items())


def test_what_is_not_finite_is_left_out(sampler, monkeypatch):
    monkeypatch.setattr(type(sampler), "statistics", lambda self: {"spectral/a": 1.0, "spectral/b": float("nan")})
    told = {}
    integrations.log_statistics(sampler, lambda values, step: told.update(values), 0)
    assert told == {"spectral/a": 1.0}


def test_statistics_are_read_back_from_tensorboard(sampler, tmp_path):
    pytest.importorskip("tensorboard")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(tmp_path) as writer:
            integrations.log_statistics(sampler, writer, 3)
        read = EventAccumulator(str(tmp_path)).Reload()
    (event,) = read.Scalars("spectral/keep_ratio")
    assert event.step == 3
    assert event.value == pytest.approx(sampler.statistics()["spectral/keep_ratio"])


def test_something_that_does_not_log_is_refused(sampler):
    with pytest.raises(ArgumentError, match=r"^log must be a function of .*, got dict"):
        integrations.log_statistics(sampler, {}, 0)


def test_a_missing_framework_names_the_pip_line():
    with pytest.raises(ImportError, match=r"pip install 'spectral-sampler\[lightning\]'") as raised:
        optional("a_framework_nobody_has", "lightning")
    assert raised.value.name == "a_framework_nobody_has"


@pytest.mark.parametrize(
    ("module", "extra", "blocked"),
    [("accelerate", "accelerate", "accelerate"), ("lightning", "lightning", "lightning"),
     ("transformers", "transformers", "transformers")],
)  # fmt: skip
def test_an_integration_without_its_framework_says_how_to_install_it(module, extra, blocked):
    code = f"import sys; sys.modules[{blocked!r}] = None; import spectral_sampler.integrations.{module}"
    finished = python(code)
    assert finished.returncode == 1
    assert f"pip install 'spectral-sampler[{extra}]'" in finished.stderr.splitlines()[-1]


def test_frameworks_are_imported_where_they_are_used_alone():
    code = (
        "import sys, spectral_sampler.integrations; "
        "print([name for name in ('lightning', 'accelerate', 'transformers', 'tensorboard') if name in sys.modules])"
    )
    assert python(code).stdout.strip() == "[]"
