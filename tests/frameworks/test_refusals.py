"""One sentence where a framework would train on the wrong batches; and how the helpers count."""

import warnings

import pytest
import torch
from small import INPUTS, LABELS, PAIRS, Mappings, Network, curated, lightning_parts
from torch.utils.data import DataLoader

from spectral_sampler import PlausibleLearnable
from spectral_sampler.errors import ArgumentError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def accelerator():
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    return accelerate.Accelerator(cpu=True)


def epoch_loader(accelerator, loader):
    from spectral_sampler.integrations.accelerate import EpochLoader

    return EpochLoader(accelerator, loader)


def test_accelerate_refuses_what_is_not_curated_is_dealt_out_twice_or_restored_twice(accelerator):
    import accelerate

    with pytest.raises(ArgumentError, match="loader must be a loader made by curate, got one with BatchSampler"):
        epoch_loader(accelerator, DataLoader(PAIRS, batch_size=16))
    with pytest.raises(ArgumentError, match="loader must be curated with num_replicas=1, got num_replicas=2"):
        epoch_loader(accelerator, curated(num_replicas=2, rank=0))
    stateful = accelerate.Accelerator(
        cpu=True, dataloader_config=accelerate.DataLoaderConfiguration(use_stateful_dataloader=True)
    )
    with pytest.raises(ArgumentError, match="accelerator must be one without use_stateful_dataloader"):
        epoch_loader(stateful, curated())


@pytest.mark.parametrize(("even", "drop_last"), [(False, False), (False, True), (True, False)])
def test_processes_that_would_wait_for_ever_are_refused(even, drop_last):
    from types import SimpleNamespace

    from spectral_sampler.integrations.curated import check_filled

    accelerator = SimpleNamespace(num_processes=4, even_batches=even)
    sampler = curated(drop_last=drop_last).batch_sampler
    assert len(sampler) == 6
    if not even and not drop_last:
        with pytest.raises(ArgumentError, match=r"whose batches fill all 4 processes.*got 6 batches"):
            check_filled("loader", sampler, accelerator)
    else:
        check_filled("loader", sampler, accelerator)
    accelerator.num_processes = 3
    check_filled("loader", sampler, accelerator)


def test_accelerates_passes_are_those_of_the_sampler_also_after_leaving_one_and_after_a_look(accelerator):
    plain = curated().batch_sampler
    lists = [list(plain) for _ in range(3)]
    loader = epoch_loader(accelerator, curated(with_indices=True))
    next(iter(loader))  # a look
    assert loader.epoch == 0
    assert [indices.tolist() for _, _, indices in loader] == lists[0]
    assert loader.epoch == 1
    for _, _, indices in loader:
        if loader.done == 3:
            assert indices.tolist() == lists[1][2]
            break
    state = loader.state_dict()
    assert (state["epoch"], state["next_batch"]) == (1, 3)
    assert [indices.tolist() for _, _, indices in loader] == lists[2], "an epoch that is left early is used up"
    loader.load_state_dict(state)
    assert loader.epoch == 1
    assert next(iter(loader))[-1].tolist() == lists[1][3], "a look after resuming"
    assert [indices.tolist() for _, _, indices in loader] == lists[1][3:]
    assert [indices.tolist() for _, _, indices in loader] == lists[2]


def trainer(tmp_path, loader, **options):
    pytest.importorskip("transformers")
    import transformers

    from spectral_sampler.integrations.transformers import SelectionMixin

    class Curated(SelectionMixin, transformers.Trainer):
        pass

    settings = {"num_train_epochs": 2, "use_cpu": True, "report_to": "none", "disable_tqdm": True, "logging_steps": 1}
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), **{**settings, **options})
    return Curated(curated=loader, model=Network(), args=arguments)


def test_the_trainer_refuses_another_loader_one_dealt_out_and_one_that_cannot_report(tmp_path):
    with pytest.raises(ArgumentError, match="curated must be a loader made by curate"):
        trainer(tmp_path, DataLoader(Mappings(), batch_size=16))
    with pytest.raises(ArgumentError, match="curated must be curated with num_replicas=1"):
        trainer(tmp_path, curated(Mappings(), num_replicas=2, rank=1))
    with pytest.raises(ArgumentError, match="curated must be curated with with_indices=True"):
        trainer(tmp_path, curated(Mappings(), selection=PlausibleLearnable()))


def test_the_trainer_reports_the_losses_of_its_own_network_and_logs(tmp_path):
    loader = curated(Mappings(), selection=PlausibleLearnable(), with_indices=True)
    made = trainer(tmp_path, loader, learning_rate=0.0, save_strategy="no")
    made.train()
    losses = loader.batch_sampler.state_dict(full=True)["losses"]["losses"]
    known = losses.isfinite()
    assert 0 < int(known.sum()) < 96
    truth = torch.nn.functional.cross_entropy(
        made.model.layer(torch.from_numpy(INPUTS)), torch.from_numpy(LABELS), reduction="none"
    )
    assert torch.allclose(losses[known].float(), truth[known], atol=1e-5)
    logged = [row for row in made.state.log_history if "loss" in row]
    assert len(logged) == 12
    assert logged[-1]["spectral/epoch"] == 1
    assert logged[-1]["spectral/observed_share"] > 0


def test_the_trainer_says_where_its_default_losses_do_not_fit(tmp_path):
    made = trainer(tmp_path, curated(Mappings(), selection=PlausibleLearnable(), with_indices=True))
    with pytest.raises(ArgumentError, match=r"logits must be \(B, C\) with class numbers \(B,\), got \(2, 3, 4\)"):
        made.sample_losses({"logits": torch.zeros(2, 3, 4)}, torch.zeros(2, 3, dtype=torch.int64))


def test_a_trainers_checkpoint_without_a_state_is_said(tmp_path, caplog):
    options = {"save_strategy": "steps", "save_steps": 6, "learning_rate": 0.1}
    trainer(tmp_path, curated(Mappings(), with_indices=True), **options).train()
    state = tmp_path / "checkpoint-6" / "spectral_sampler.pt"
    assert torch.load(state, weights_only=True)["epoch"] == 1
    state.unlink()
    with caplog.at_level("WARNING", logger="spectral_sampler"):
        made = trainer(tmp_path, curated(Mappings(), with_indices=True), **options)
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert "goes on without what it had observed" in caplog.text
    epochs = [row["spectral/epoch"] for row in made.state.log_history if row["step"] > 6 and "loss" in row]
    assert epochs == [1] * 6, "it is right about the epoch all the same"


def selection_callback():
    pytest.importorskip("lightning.pytorch")
    from spectral_sampler.integrations.lightning import SelectionCallback

    return SelectionCallback()


def test_lightning_refuses_a_loader_that_was_not_handed_over():
    selection = selection_callback()
    module, fit = lightning_parts(selection, lambda module: curated(with_indices=True))
    with pytest.raises(ArgumentError, match=r"train_dataloader must be .* selection\.attach"):
        fit(module())
    with pytest.raises(ArgumentError, match="loader must be a loader made by curate"):
        selection.attach(DataLoader(PAIRS, batch_size=16))


def test_lightning_refuses_a_checkpoint_of_a_run_without_the_callback(tmp_path):
    selection = selection_callback()
    module, fit = lightning_parts(selection, lambda module: selection.attach(curated(with_indices=True)))
    fit(module(), max_epochs=1, callbacks=[]).save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(ArgumentError, match="ckpt_path must be saved with a SelectionCallback"):
        fit(module(), ckpt_path=tmp_path / "plain.ckpt")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("when", ["epoch end", "after fit", "limited", "validated", "last batch"])
def test_lightning_goes_on_with_the_next_epoch_after_a_checkpoint_at_an_end(tmp_path, when, workers):
    from lightning.pytorch.callbacks import ModelCheckpoint

    plain = curated().batch_sampler
    lists = [list(plain) for _ in range(3)]
    selection = selection_callback()
    loaders = lambda module: selection.attach(curated(with_indices=True, workers=workers))  # noqa: E731
    module, fit = lightning_parts(selection, loaders)
    size, options, saving = 6, {}, {"save_on_train_epoch_end": True}
    if when == "limited":
        size, options = 4, {"limit_train_batches": 4}
    if when == "last batch":
        saving = {"every_n_train_steps": 6}
    if when == "validated":
        module.validation_step = lambda self, batch, number: None
        module.val_dataloader = lambda self: DataLoader(PAIRS, batch_size=32)
        saving = {"save_on_train_epoch_end": False}
    place = tmp_path / "last.ckpt"
    if when == "after fit":
        fit(module(), max_epochs=1).save_checkpoint(place)
    else:
        saver = ModelCheckpoint(tmp_path, save_last=True, **saving)
        fit(module(), max_epochs=1, callbacks=[selection, saver], enable_checkpointing=True, **options)
    resumed = module()
    fit(resumed, ckpt_path=place, **options)
    assert resumed.seen == [(epoch, batch) for epoch in (1, 2) for batch in lists[epoch][:size]]


def test_lightning_reloads_its_loader_every_epoch_and_keeps_what_was_observed():
    plain = curated().batch_sampler
    lists = [list(plain) for _ in range(3)]
    selection, made = selection_callback(), []

    def loaders(module):
        made.append(selection.attach(curated(with_indices=True)).batch_sampler)
        made[-1].observe([len(made)], [1.0])
        return DataLoader(selection_dataset, batch_sampler=made[-1])

    selection_dataset = curated(with_indices=True).dataset
    module, fit = lightning_parts(selection, loaders)
    trained = module()
    fit(trained, reload_dataloaders_every_n_epochs=1)
    assert trained.seen == [(epoch, batch) for epoch in range(3) for batch in lists[epoch]]
    assert len(made) == 3
    known = made[-1].state_dict(full=True)["losses"]["losses"].isfinite().nonzero().flatten().tolist()
    assert known == [1, 2, 3]


def test_lightning_logs_the_statistics(tmp_path):
    selection = selection_callback()
    module, fit = lightning_parts(selection, lambda module: selection.attach(curated(with_indices=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    fit(module(), max_epochs=1, logger=logger, log_every_n_steps=2)
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert "spectral/keep_ratio" in rows[0]
    assert len(rows) == 4


def test_lightning_fits_again_where_it_stopped():
    plain = curated().batch_sampler
    lists = [list(plain) for _ in range(3)]
    selection = selection_callback()
    loaders = lambda module: selection.attach(curated(with_indices=True, workers=2))  # noqa: E731
    module, fit = lightning_parts(selection, loaders)
    trainer, again = fit(module(), max_epochs=1), module()
    trainer.fit_loop.max_epochs = 3
    trainer.fit(again)
    assert again.seen == [(epoch, batch) for epoch in (1, 2) for batch in lists[epoch]]
