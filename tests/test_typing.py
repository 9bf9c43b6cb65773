"""A user's script is checked as a user would check it: mypy --strict, against the annotations alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from spectral_sampler import Indexed, PlausibleLearnable, ReferenceStore, SpectralBatchSampler, curate

dataset = TensorDataset(torch.rand(512, 3), torch.randint(10, (512,)))
model = torch.nn.Linear(3, 10)
store = ReferenceStore.from_model(model, dataset, "reference", batch_size=64, dtype="float32")
plain = DataLoader(dataset, batch_size=128, shuffle=True)
loader = curate(plain, store, epochs=25, selection=PlausibleLearnable(), with_indices=True, start_epoch=3, seed=1)
optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(25):
    for inputs, labels, indices in loader:
        losses = torch.nn.functional.cross_entropy(model(inputs), labels, reduction="none")
        (losses * loader.batch_sampler.weights_for(indices)).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        loader.batch_sampler.observe(indices, losses)
    print(loader.batch_sampler.statistics()["spectral/kept"], loader.batch_sampler.epoch)
state: dict[str, object] = loader.batch_sampler.state_dict()
length: int = len(loader) + len(loader.batch_sampler) + len(Indexed(dataset))
as_loader: DataLoader[tuple[torch.Tensor, ...]] = loader
sampler = SpectralBatchSampler(store, candidate_batch_size=128, epochs=25)
batches: list[list[int]] = list(sampler)
curate(plain, torch.rand(512, 3), keep_ratio=lambda progress: 0.2 + 0.5 * progress, sampler=range(256), device="cpu")

curate(plain, store, epoch=3)  # error: call-arg
curate(plain, store, emit="grow")  # error: arg-type
curate(plain, store, selection=PlausibleLearnable)  # error: arg-type
ReferenceStore.from_model(model, dataset, "reference", batchsize=64)  # error: call-arg
ReferenceStore.from_model(model, dataset, "reference", dtype="int8")  # error: arg-type
loader.batch_sampler.observ(indices, losses)  # error: attr-defined
SpectralBatchSampler(store, 128, 25)  # error: call-arg
"""


@pytest.mark.slow
def test_mypy_follows_a_users_script_and_finds_its_mistakes(tmp_path):
    pytest.importorskip("mypy", reason="needs mypy")
    root = Path(__file__).parent.parent
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    options = [
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
        f"--cache-dir={root / '.mypy_cache' / 'script'}",
    ]
    finished = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(tmp_path / "script.py")],
        capture_output=True, text=True, timeout=280, cwd=root, check=False,
    )  # fmt: skip
    found = {
        (int(line), code) for line, code in re.findall(r"script\.py:(\d+): error: .*\[([\w-]+)\]", finished.stdout)
    }
    expected = {
        (number, line.partition("# error: ")[2])
        for number, line in enumerate(SCRIPT.splitlines(), start=1)
        if "# error: " in line
    }
    assert found == expected, finished.stdout + finished.stderr
