"""Models and samples as Hugging Face has them need no functions; references and learners read them alike."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from spectral_sampler.errors import ArgumentError, StoreError
from spectral_sampler.extraction import extract, train_reference
from spectral_sampler.extraction.identity import model_hash
from spectral_sampler.sampler.learner import Learner
from spectral_sampler.selection import JEST

transformers = pytest.importorskip("transformers")

ROWS, CLASSES, WIDTH, WORDS = 23, 3, 16, 50
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
IMAGES = torch.randn(ROWS, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(ROWS) % CLASSES
TEXTS = [
    torch.randint(1, WORDS, (3 + row % 5,), generator=torch.Generator().manual_seed(row)).tolist()
    for row in range(ROWS)
]


def made(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def vit(**options):
    config = transformers.ViTConfig(**SMALL, image_size=8, patch_size=4, num_labels=CLASSES, **options)
    return made(lambda: transformers.ViTForImageClassification(config))


def bert(kind="BertForSequenceClassification", **options):
    config = transformers.BertConfig(
        **SMALL, vocab_size=WORDS, max_position_embeddings=16, num_labels=CLASSES, **options
    )
    return made(lambda: getattr(transformers, kind)(config))


def gpt2(kind="GPT2ForSequenceClassification"):
    config = transformers.GPT2Config(
        n_embd=WIDTH, n_layer=2, n_head=2, vocab_size=WORDS, n_positions=16, num_labels=CLASSES, pad_token_id=0
    )
    return made(lambda: getattr(transformers, kind)(config))


def texts(label="label"):
    return [
        {"input_ids": ids, "attention_mask": [1] * len(ids), label: int(LABELS[row])} for row, ids in enumerate(TEXTS)
    ]


def padded(samples):
    """As transformers' DataCollatorWithPadding does, whose result is a BatchEncoding."""
    width = max(len(sample["input_ids"]) for sample in samples)
    label = next(key for key in samples[0] if key.startswith("label"))
    batch = {
        name: torch.tensor([sample[name] + [0] * (width - len(sample[name])) for sample in samples])
        for name in ("input_ids", "attention_mask")
    }
    return transformers.BatchEncoding({**batch, "labels": torch.tensor([sample[label] for sample in samples])})


def losses_of(logits):
    return nn.functional.cross_entropy(logits, LABELS, reduction="none").numpy()


@torch.no_grad()
def image_features(model):
    return model.vit(IMAGES).last_hidden_state[:, 0], model(IMAGES).logits


@pytest.mark.parametrize(
    "samples",
    [
        [{"pixel_values": image, "labels": int(label)} for image, label in zip(IMAGES, LABELS, strict=True)],
        [{"image": image, "label": int(label)} for image, label in zip(IMAGES, LABELS, strict=True)],
        [{"pixel_values": image, "target": label, "idx": 7} for image, label in zip(IMAGES, LABELS, strict=True)],
        list(zip(IMAGES, LABELS, strict=True)),
        [({"pixel_values": image}, label) for image, label in zip(IMAGES, LABELS, strict=True)],
    ],
    ids=["trainer", "one input by another name", "target and number", "tuples", "mapping and label"],
)
@pytest.mark.parametrize("options", [{}, {"output_hidden_states": True}], ids=str)
def test_images(tmp_path, samples, options):
    model = vit(**options)
    features, logits = image_features(vit())
    store = extract(model, samples, tmp_path, dtype="float32")
    np.testing.assert_allclose(store.features, features.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(store.losses, losses_of(logits), rtol=1e-5)
    assert store.labels.tolist() == LABELS.tolist()
    assert model.config.problem_type is None, "the model was not given the labels"


@torch.no_grad()
def text_features(model):
    """One sample at a time, without padding."""
    rows = []
    for ids in TEXTS:
        ids = torch.tensor([ids])
        if isinstance(model, transformers.BertForSequenceClassification):
            rows.append((model.bert(ids).pooler_output[0], model(ids).logits[0]))
        else:
            rows.append((model.transformer(ids).last_hidden_state[0, -1], model(ids).logits[0]))
    return tuple(torch.stack(part) for part in zip(*rows, strict=True))


@pytest.mark.parametrize("build", [bert, gpt2])
@pytest.mark.parametrize("label", ["label", "labels"])
def test_padded_texts(tmp_path, build, label):
    model = build()
    features, logits = text_features(model)
    store = extract(model, texts(label), tmp_path, collate_fn=padded, batch_size=7, dtype="float32")
    np.testing.assert_allclose(store.features, features.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(store.losses, losses_of(logits), rtol=1e-4, atol=1e-5)
    assert store.labels.tolist() == LABELS.tolist()


def test_torchs_own_losses_get_the_logits_and_a_function_what_the_model_put_out(tmp_path):
    model = bert()
    expected = losses_of(text_features(model)[1])
    for name, loss in {
        "criterion": nn.CrossEntropyLoss(reduction="none"),
        "function": lambda outputs, labels: nn.functional.cross_entropy(outputs.logits, labels, reduction="none"),
    }.items():
        store = extract(model, texts(), tmp_path / name, collate_fn=padded, loss=loss)
        np.testing.assert_allclose(store.losses, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: bert("BertForTokenClassification"), (ROWS, 7, WIDTH)),
        (lambda: gpt2("GPT2LMHeadModel"), (ROWS, 7, WIDTH)),
    ],
)
def test_a_head_on_every_token_is_refused(tmp_path, build, shape):
    message = rf"^features must be a \(B, d\) tensor, got {shape}. Pass features=function".replace("(23", r"\(23")
    with pytest.raises(ArgumentError, match=message.replace("16)", r"16\)")):
        extract(build(), texts(), tmp_path, collate_fn=padded, loss=None)


def test_a_model_without_logits_is_refused_where_it_is_asked_for_losses(tmp_path):
    model = bert("BertModel")
    with pytest.raises(
        ArgumentError, match=r"^loss must be a function\(outputs, labels\) for this model, got 'cross_en"
    ):
        extract(model, texts(), tmp_path, collate_fn=padded)


@pytest.mark.parametrize("build", [bert, gpt2, vit])
def test_learners(build):
    model = build()
    if build is vit:
        (features, logits), data, collate = image_features(model), list(zip(IMAGES, LABELS, strict=True)), None
    else:
        (features, logits), data, collate = text_features(model), texts(), padded
    outputs = Learner(model, data, JEST(joint=True), collate)([5, 2, 20])
    torch.testing.assert_close(outputs.logits, logits[[5, 2, 20]], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.embeddings, features[[5, 2, 20]], rtol=1e-4, atol=1e-5)


def test_a_reference_of_ones_own_is_trained_on_them():
    samples = [{"pixel_values": image + 2 * label, "label": int(label)} for image, label in zip(IMAGES, LABELS)]  # noqa: B905
    model = vit()
    before = losses_of(model(torch.stack([sample["pixel_values"] for sample in samples])).logits.detach()).mean()
    train_reference(model, samples, epochs=60, batch_size=8)
    after = losses_of(model(torch.stack([sample["pixel_values"] for sample in samples])).logits.detach()).mean()
    assert after < 0.5 * before


def test_columns_that_forward_does_not_name_are_refused_with_those_that_it_names(tmp_path):
    samples = [{"pixel_values": image, "mask": 1, "label": 0} for image in IMAGES]
    message = r"^split must be given for data sets whose samples are mappings, got keys pixel_values, mask\. .*pixel_va"
    with pytest.raises(ArgumentError, match=message):
        extract(vit(), samples, tmp_path)
    message = r"^dataset must be of samples that hold what ViTForImageClassification\.forward names, got keys mask\. "
    with pytest.raises(ArgumentError, match=message):
        Learner(vit(), samples, JEST(joint=True))([0, 1])
    for image in samples:
        image["labels"] = 1
    with pytest.raises(
        ArgumentError, match=r"^split must be given for .* several labels, got keys pixel_values, mask, la"
    ):
        extract(vit(), samples, tmp_path)


def test_samples_without_labels(tmp_path, caplog):
    samples = [{"pixel_values": image} for image in IMAGES]
    with caplog.at_level(logging.WARNING):
        store = extract(vit(), samples, tmp_path, loss=None, dtype="float32")
    assert (store.labels, caplog.text) == (None, "")
    np.testing.assert_allclose(store.features, image_features(vit())[0].numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ArgumentError, match=r"^loss must be None for a data set without labels"):
        extract(vit(), samples, tmp_path / "b")


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    unknown, padding = "[UNK]", "[PAD]"
    words = Tokenizer(models.WordLevel({unknown: 0, padding: 1, "a": 2, "b": 3, "c": 4}, unk_token=unknown))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token=unknown, pad_token=padding)


def test_a_tokenizer_that_has_been_used_is_the_same_tokenizer(tmp_path, tokenizer, caplog):
    def tokenized(samples):
        batch = tokenizer([text for text, _ in samples], padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([label for _, label in samples])}

    samples = [("a b c a"[: 1 + 2 * (row % 4)], row % CLASSES) for row in range(ROWS)]
    rows = [{**tokenizer(text), "label": label} for text, label in samples]
    for name, given, collate in (
        ("function", samples, tokenized),
        ("collator", rows, transformers.DataCollatorWithPadding(tokenizer)),
    ):
        first = extract(bert(), given, tmp_path / name, collate_fn=collate)
        tokenizer("a b", padding="max_length", truncation=True, max_length=9)
        caplog.clear()
        with caplog.at_level(logging.INFO, "spectral_sampler"):
            assert extract(bert(), given, tmp_path / name, collate_fn=collate).fingerprint == first.fingerprint
        assert "opened existing store" in caplog.text
    tokenizer.add_tokens(["d"])
    with pytest.raises(StoreError, match=r"collate_fn differ.*A function counts with all that it names"):
        extract(bert(), samples, tmp_path / "function", collate_fn=tokenized)


def test_where_a_model_was_loaded_from_does_not_matter(tmp_path):
    made = vit()
    made.save_pretrained(tmp_path / "one")
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path / "one")
    assert loaded.name_or_path != made.name_or_path
    assert model_hash(loaded) == model_hash(made)
