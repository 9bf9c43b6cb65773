"""What the NVIDIA backends ask of a machine, with torch's answers replaced: no device is needed."""

import pytest
import torch

from spectral_sampler import SALN, ReferenceStore, SpectralBatchSampler
from spectral_sampler.errors import ArgumentError
from spectral_sampler.kernels import cuda, nvidia, triton


class OnDevice:
    """A tensor as far as these questions go."""

    is_cuda, device, shape = True, torch.device("cuda", 1), (10, 4)


@pytest.fixture
def machine(monkeypatch):
    """A machine with a device that must not be initialised yet."""

    def initialised(*_):
        raise AssertionError("CUDA was initialised")

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", initialised)
    monkeypatch.setattr(torch.cuda, "_lazy_init", initialised)


@pytest.mark.usefixtures("machine")
def test_a_sampler_with_a_named_backend_is_made_without_touching_the_device():
    pytest.importorskip("triton", reason="triton is not installed (pip install triton)")
    assert nvidia.device_missing() is None
    store = ReferenceStore.from_arrays(torch.rand(40, 4))
    sampler = SpectralBatchSampler(store, candidate_batch_size=10, keep_ratio=0.5, selection=SALN(), backend="triton")
    assert sampler.backend == "triton"


@pytest.mark.parametrize(("capability", "usable"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
@pytest.mark.parametrize("module", [cuda, triton])
def test_the_device_that_holds_the_rows_is_the_one_that_is_judged(module, capability, usable, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    reason = module.unsupported(OnDevice(), torch.arange(10)[None])
    assert asked == [torch.device("cuda", 1)]
    assert (reason is None) == usable
    assert usable or "compute capability 8.0" in reason


def test_kernels_are_launched_on_the_device_of_the_rows(monkeypatch):
    entered = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or nvidia.contextlib.nullcontext())
    with nvidia.device_of(OnDevice()):
        assert entered == [torch.device("cuda", 1)]
    with nvidia.device_of(torch.ones(1)):
        assert len(entered) == 1, "rows on the host need none"


def test_half_affinities_are_asked_for_by_argument_or_environment(monkeypatch):
    monkeypatch.delenv(cuda.HALF_VARIABLE, raising=False)
    assert [cuda._form(None), cuda._form(False), cuda._form(True)] == [0, 0, 3]
    monkeypatch.setenv(cuda.HALF_VARIABLE, "1")
    assert [cuda._form(None), cuda._form(False)] == [3, 0]
    monkeypatch.setenv(cuda.HALF_VARIABLE, "yes")
    with pytest.raises(ArgumentError, match=r"^SPECTRAL_SAMPLER_HALF_AFFINITIES must be 0 or 1, got 'yes'"):
        cuda._form(None)
