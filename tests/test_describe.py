"""describe() and the notebook's table: what they say is what happens, at no cost."""

import html.parser
import itertools
import re

import numpy as np
import pytest
import torch
from sampler_cases import FirstFeature, make_store
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler

from spectral_sampler import (
    GSTDS,
    InfoBatch,
    Leverage,
    LinearSchedule,
    MellowAIMD,
    PlausibleEven,
    PlausibleLearnable,
    ReferenceStore,
    SigmoidSchedule,
    SpectralBatchSampler,
    Uniform,
    curate,
    label_noise,
)
from spectral_sampler.estimates import label_noise as estimates
from spectral_sampler.sampler import description

STORE = make_store(500)
RISING = SigmoidSchedule(0.2, 0.8, mean=0.4)


def make(store=STORE, size=24, *, selection=None, **options):
    return SpectralBatchSampler(store, size, selection=Uniform() if selection is None else selection, **options)


def said(sampler):
    """name: sentence; notes together."""
    rows = description.facts(sampler._run)
    notes = " | ".join(sentence for name, sentence in rows if name == "note")
    return {**dict(rows), "note": notes}


def numbers(sentence):
    return [int(number) for number in re.findall(r"(?<![\d.])\d+(?![\d.]*\d)", sentence)]


def labelled(samples=400, wrong=0.0, classes=4):
    """Well separated classes, a share of whose labels is wrong."""
    generator = np.random.default_rng(0)
    labels = np.arange(samples) % classes
    features = np.eye(8, dtype=np.float32)[labels] + generator.normal(0, 0.05, (samples, 8)).astype(np.float32)
    flipped = generator.permutation(samples)[: round(wrong * samples)]
    labels[flipped] = (labels[flipped] + 1 + generator.integers(0, classes - 1, len(flipped))) % classes
    return ReferenceStore.from_arrays(features, labels=labels, losses=np.ones(samples))


CONFIGURATIONS = {
    f"{kind}-{'drop' if drop else 'tail'}-{ranks}": {**options, "drop_last": drop, "num_replicas": ranks, "epochs": 3}
    for kind, options in {
        "constant": {"keep_ratio": 0.3},
        "rising": {"keep_ratio": RISING},
        "function": {"keep_ratio": lambda progress: 0.9 - 0.5 * progress},
        "multiple": {"keep_ratio": RISING, "multiple_of": 8},
        "floor": {"keep_ratio": 0.1, "min_keep": 7},
        "emitted": {"keep_ratio": RISING, "emit": "constant", "batch_size": 24},
        "emitted ring": {"keep_ratio": 0.25, "emit": "constant", "batch_size": 10, "shuffle": False},
        "subset": {"keep_ratio": RISING, "sampler": range(20, 320)},
        "all": {"keep_ratio": 1.0},
    }.items()
    for drop, ranks in itertools.product((True, False), (1, 3))
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_what_is_said_is_what_happens(options):
    ranks = options["num_replicas"]
    samplers = [make(rank=rank, **options) for rank in range(ranks)]
    facts = said(samplers[-1])
    passes = [[[list(batch) for batch in sampler] for _ in range(3)] for sampler in samplers]
    kept = [sum(len(batch) for batch in batches) for batches in passes[-1]]
    sizes = [{len(batch) for batch in batches} for batches in passes[-1]]
    everywhere = sum(len(batch) for rank in passes for batches in rank for batch in batches)
    offered = int(sum(sampler_offered(sampler) for sampler in samplers))
    ends = [kept[0], kept[0]] if min(kept) == max(kept) else [kept[0], kept[-1]]
    told = numbers(facts["samples"])
    if min(kept) == max(kept):
        assert told[0] == kept[0]
        assert "in every epoch" in facts["samples"]
    else:
        assert [told[0], told[2]] == ends
        if {min(kept), max(kept)} != set(ends):
            assert f"from {min(kept)} to {max(kept)} an epoch" in facts["samples"]
    assert f"{sum(kept)} in 3 epochs" in facts["samples"]
    rows = 3 * len(samplers[0].sampler)
    assert facts["cost"].startswith(f"{100 * everywhere / rows:.1f} % of the {rows} samples")
    assert f"{offered} candidates" in facts["cost"]
    assert facts["batches"].startswith(f"{len(samplers[-1])} an epoch")
    assert ("on this rank" in facts["samples"]) is ("on each of 3 ranks" in facts["batches"]) is (ranks == 3)
    whole = f"of {span(samplers[-1].batch_sizes())} samples"
    assert whole in facts["batches"]
    if len(samplers[-1].batch_sizes()) > 1:
        assert facts["batches"].endswith(f": {span(sizes[0])} in epoch 0, {span(sizes[2])} in epoch 2")
    shrinks = any(len(batch) < 20 for batches in passes[-1] for batch in batches[:-1]) and "emit" not in options
    assert ("not 24" in facts["note"]) is shrinks
    assert len(samplers[0].describe().splitlines()) <= 10


def span(sizes):
    return str(min(sizes)) if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)}"


def sampler_offered(sampler):
    return sum(
        len(sampler.selection_at(epoch, step * sampler.settings.num_replicas + sampler.settings.rank)[0])
        if step * sampler.settings.num_replicas + sampler.settings.rank < sampler._plan.batches
        else sampler.settings.candidate_batch_size  # filled up with the first ones
        for epoch in range(3)
        for step in range(len(sampler))
    )


def test_the_keep_ratio_is_that_of_the_epochs():
    ratios = make(epochs=5, keep_ratio=RISING).keep_ratios().reshape(5, -1)
    facts = said(make(epochs=5, keep_ratio=RISING))
    means = ratios.mean(axis=1)
    assert facts["keep ratio"].startswith(f"{means[0]:.3f} in epoch 0, {means[-1]:.3f} in epoch 4")
    assert facts["keep ratio"].endswith("0.400 on average")
    assert said(make(keep_ratio=0.25))["keep ratio"] == "0.250 throughout"
    humped = said(make(epochs=4, keep_ratio=lambda progress: 0.2 + 2 * progress * (1 - progress)))["keep ratio"]
    low, high = re.search(r"from ([\d.]+) to ([\d.]+) an epoch", humped).groups()
    assert float(low) < float(high)


def test_without_a_horizon_one_epoch_is_described():
    sampler = make(keep_ratio=0.25, start_epoch=3)
    facts, batches = said(sampler), [len(batch) for batch in sampler]
    assert facts["samples"] == f"{sum(batches)} in epoch 3"
    assert "of the 500 samples of full training in an epoch" in facts["cost"]


def test_weights_are_asked_for_where_there_are_any():
    asked = "nothing; multiply the losses by sampler.weights_for(indices)"
    assert said(make(selection=Leverage()))["to report"] == asked
    assert said(make(selection=Leverage(deterministic=True)))["to report"] == "nothing"


def test_where_sizes_are_not_known_the_most_is_said():
    repeating = make(sampler=WeightedRandomSampler(torch.ones(500), 480), epochs=2, keep_ratio=0.9)
    facts = said(repeating)
    bound = numbers(facts["samples"])[0]
    with_most = [facts["samples"], facts["cost"], facts["next"].split(", ")[1]]
    assert all(sentence.startswith("at most ") for sentence in with_most)
    assert 0 < sum(len(batch) for batch in repeating) <= bound
    assert "480 in the order of an epoch" in facts["data"]
    proposing = said(make(selection=InfoBatch(), epochs=2))
    assert proposing["samples"].startswith("at most ")
    assert proposing["to report"].startswith("call sampler.observe_next(losses)")
    assert "sampler.weights_for(indices)" in proposing["to report"]
    adaptive = said(make(keep_ratio=MellowAIMD(0.2, 0.6, mean=0.3), epochs=2))
    assert adaptive["keep ratio"] == "0.200 to 0.600, follows the loss; about 0.300"
    assert adaptive["samples"] == "about 288 in 2 epochs"
    assert adaptive["to report"].startswith("call sampler.observe_next(losses)")


def test_a_rank_of_a_callers_own_shards_counts_its_own():
    facts = said(make(sampler=DistributedSampler(range(500), 2, rank=0), keep_ratio=0.5))
    assert facts["cost"].startswith("48.0 % of the 250 samples")


# What to look out for


@pytest.mark.parametrize("multiple", [1, 5])
@pytest.mark.parametrize("order", [None, SubsetRandomSampler(range(100))])
def test_the_cure_for_shrinking_batches_is_accepted(multiple, order):
    note = said(make(multiple_of=multiple, sampler=order))["note"]
    size = int(re.search(r'emit="constant", batch_size=(\d+) keeps', note)[1])
    cured = make(multiple_of=multiple, sampler=order, emit="constant", batch_size=size)
    assert {len(batch) for batch in cured} == {24 // multiple * multiple}
    assert "not 24" not in said(cured)["note"]


@pytest.mark.parametrize(
    "options",
    [
        {"selection": InfoBatch()},
        {"keep_ratio": MellowAIMD()},
        {"sampler": RandomSampler(range(500), replacement=True)},
        {"sampler": [*range(100), *range(100)]},
    ],
)
def test_no_cure_is_named_that_is_refused(options):
    note = said(make(**options))["note"]
    assert "not 24" in note
    assert "sampler.lr_scale(size)" in note
    assert "constant" not in note


def test_schedules_that_readmit_suspects_are_named_with_the_number():
    store = labelled()
    schedule = {"epochs": 5, "keep_ratio": LinearSchedule(0.2, 0.9, mean=0.55)}
    for policy in (PlausibleEven(label_noise=0.25), PlausibleLearnable(label_noise=0.25)):
        sampler = make(store, selection=policy, **schedule)
        note = said(sampler)["note"]
        first = int(np.argmax(sampler.keep_ratios().reshape(5, -1).max(axis=1) > 0.75))
        assert f"from epoch {first} on" in note
        assert "cap the keep ratio at 0.750" in note
        assert "weights_for" in note
    capped = {"epochs": 5, "keep_ratio": LinearSchedule(0.2, 0.75, mean=0.5)}
    for trusted in (make(store, selection=PlausibleEven(label_noise=0.25), **capped),
                    make(store, selection=PlausibleEven(label_noise=0), **schedule),
                    make(store, selection=GSTDS(), **schedule)):  # fmt: skip
        assert "suspects" not in said(trusted)["note"]


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.42, 0.44, 0.7, 0.9])
def test_the_cap_that_is_named_silences_the_note(noise):
    store = labelled()
    note = said(make(store, selection=PlausibleEven(label_noise=noise), keep_ratio=0.97))["note"]
    cap = float(re.search(r"cap the keep ratio at ([\d.]+)", note)[1])
    assert cap == pytest.approx(1 - noise)
    assert "suspects" not in said(make(store, selection=PlausibleEven(label_noise=noise), keep_ratio=cap))["note"]


def test_what_is_forced_readmits_too():
    store = labelled()
    policy = PlausibleEven(label_noise=0.5)
    floor = said(make(store, 16, selection=policy, keep_ratio=0.2, min_keep=12))["note"]
    assert "keeps up to 0.750" in floor
    emitted = said(make(store, 40, selection=policy, keep_ratio=0.2, emit="constant", batch_size=300))["note"]
    assert "keeps up to 0.750" in emitted
    follows = said(make(store, selection=policy, keep_ratio=MellowAIMD(0.1, 0.8, mean=0.3)))["note"]
    assert "keeps up to 0.800" in follows


def test_the_estimate_is_used_where_it_is_known_and_never_made(monkeypatch, tmp_path):
    store = labelled(wrong=0.3)
    store.save(tmp_path / "store")
    asked = {"selection": PlausibleEven(), "keep_ratio": 0.9}

    def planted(*arguments):
        raise AssertionError("estimated")

    with monkeypatch.context() as patch:
        patch.setattr(estimates, "estimate", planted)
        unknown = said(make(store, **asked))["note"]
        assert "where more than 0.100 of the labels are wrong" in unknown
        assert "suspects" not in said(make(store, selection=PlausibleEven(), keep_ratio=0.5))["note"]
    saved = ReferenceStore.open(tmp_path / "store")
    for known in (store, saved):
        share = float(label_noise(known).suspects().mean())
        assert 0.2 < share < 0.4
        assert f"{share:.3f} of the labels are suspected" in said(make(known, **asked))["note"]
    with monkeypatch.context() as patch:
        patch.setattr(estimates, "estimate", planted)
        reopened = make(ReferenceStore.open(tmp_path / "store"), **asked)
        assert f"{share:.3f} of the labels are suspected" in said(reopened)["note"]
    clean = labelled()
    list(sampler := make(clean, **asked))
    assert "suspects" not in said(sampler)["note"]


# At no cost


class Unread(list):
    def __getitem__(self, index):
        raise AssertionError("read")


def test_describing_scores_nothing_reads_nothing_and_moves_nothing():
    policy = FirstFeature()
    loader = curate(DataLoader(Unread(range(500)), 24, shuffle=True), STORE, selection=policy, epochs=4)
    sampler = loader.batch_sampler
    before = sampler.state_dict(full=True)["delivered"], sampler.epoch
    first = sampler.describe()
    assert sampler.describe() == first
    assert sampler._repr_html_() == sampler._repr_html_()
    assert policy.calls == []
    assert (sampler.state_dict(full=True)["delivered"], sampler.epoch) == before
    plain = SpectralBatchSampler(
        STORE, 24, selection=FirstFeature(), epochs=4, drop_last=False, seed=sampler.settings.seed
    )
    assert list(sampler) == list(plain)


def test_what_the_choice_has_cost_is_said_once_it_is_known(monkeypatch):
    sampler = make(selection=FirstFeature(), lookahead=0)
    assert "ms a batch" not in sampler.describe()
    list(sampler)
    statistics = sampler.statistics()
    spent = (statistics["spectral/seconds_waiting"] + statistics["spectral/seconds_selecting"]) / len(sampler)
    assert f"{1e3 * spent:.2f} ms a batch for the choice, in epoch 0" in said(sampler)["cost"]


class Odd(Uniform):
    def __repr__(self):
        return "<script>alert('&')</script>\n" * 40


class Cells(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.cells = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag in {"th", "td"}:
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


def test_the_table_of_a_notebook_says_the_same_and_is_escaped():
    for sampler in (make(epochs=4, keep_ratio=RISING), make(selection=Odd())):
        page = Cells()
        page.feed(sampler._repr_html_())
        facts = description.facts(sampler._run)
        assert page.cells == [part for fact in facts for part in fact]
        assert set(page.tags) == {"table", "caption", "tr", "th", "td"}
        assert not re.search(r"https?:|<script", sampler._repr_html_())
        lines = sampler.describe().splitlines()
        assert len(lines) == len(facts) <= 10
        assert all(line == f"{name:<12}{sentence}" for line, (name, sentence) in zip(lines, facts, strict=True))
