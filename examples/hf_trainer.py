"""Hugging Face Trainer: a mixin hands the loader to Accelerate, reports losses, logs, and saves what was learnt.

torchrun --nproc-per-node 2 hf_trainer.py
torchrun --nproc-per-node 2 hf_trainer.py --resume
"""

import tiny
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from spectral_sampler import SigmoidSchedule, curate
from spectral_sampler.integrations.transformers import SelectionMixin

options = tiny.arguments(__doc__)


class Rows(Dataset):
    """Samples as the Trainer likes them."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        inputs, label = self.dataset[index]
        return {"inputs": inputs, "labels": label}


class Classifier(nn.Module):
    """Answers as a Hugging Face model does."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs, labels=None):
        logits = self.network(inputs)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


plain = tiny.data(options)
dataset, store = Rows(plain), tiny.store(plain)

# [start: hf trainer]
loader = DataLoader(
    dataset, batch_size=options.batch_size, shuffle=True, num_workers=options.workers,
    persistent_workers=options.workers > 0,
)  # fmt: skip
loader = curate(  # selection: num_replicas stays 1, the Trainer shards
    loader, store, selection=tiny.SELECTIONS[options.selection](), epochs=options.epochs, seed=options.seed,
    keep_ratio=SigmoidSchedule(0.18, 0.88, mean=0.4), with_indices=True,
)  # fmt: skip


class CuratedTrainer(SelectionMixin, Trainer):  # selection
    """Yours; without the mixin: get_train_dataloader returns self.accelerator.prepare(loader), and no callback."""


arguments = TrainingArguments(
    output_dir=str(options.out), num_train_epochs=options.epochs, gradient_accumulation_steps=options.accumulate,
    learning_rate=0.1, optim="sgd", seed=options.seed, use_cpu=True, report_to="none", disable_tqdm=True,
    accelerator_config={"even_batches": False},  # selection: batch sizes vary
    logging_steps=5, save_strategy="steps", save_steps=options.save_every // options.accumulate,
)  # fmt: skip
trainer = CuratedTrainer(curated=loader, model=Classifier(tiny.net(plain)), args=arguments)  # selection
trainer.train(resume_from_checkpoint=options.resume)
# [end]
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
