"""Options that several commands take, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

__all__ = ["add_data", "add_equal", "add_ratio", "add_training", "places", "settings", "title"]

_CHANGES = ("preset", "train_size", "label_noise", "imbalance", "duplicate", "reference", "reference_epochs", "epochs",
            "candidate_batch_size", "schedule", "keep_ratio", "keep_min", "keep_max", "reshuffle", "learning_rate",
            "image_size", "backend", "device", "pretrained", "learner", "optimizer", "learning_rate_schedule",
             "weight_decay", "momentum", "validation", "confusion_noise", "overlap", "equal", "runs_per_reference",
             "test_split", "test_data", "label_column", "text_column")  # fmt: skip


def add_data(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Which data set, where it lies, and how much of it; ``default`` where neither it nor a preset is given."""
    parser.set_defaults(default_data=default)
    group = parser.add_argument_group("data")
    group.add_argument("--data", metavar="WHAT", help="digits, fashion-mnist, wordnet, wordnet-verbs, "
                       "wordnet-fields, diamonds, opinions, "
                       "cifar10, oxford-pet or flowers102; a folder of images (train/CLASS/…, test/CLASS/…); a file "
                       ".npz (x, y, x_test, y_test), .csv or .parquet (a column label); or module:function, which "
                       "returns (train, test)" + (f" (default {default})" if default else ""))  # fmt: skip
    group.add_argument("--preset", metavar="NAME", help="a paper's setting: gstds-pet, gstds-cifar10, gstds-flowers")
    group.add_argument("--test-split", metavar="NAME", help="the folder, or the value of the column split, that tests")
    group.add_argument("--test-data", metavar="FILE", help="a second .csv or .parquet that tests")
    group.add_argument("--label-column", metavar="NAME", help="of a table (default label)")
    group.add_argument("--text-column", metavar="NAME", help="of a table (default text, where there is one)")
    group.add_argument("--data-root", type=Path, metavar="DIR", help="folder with a built-in data set's files")
    group.add_argument("--download", action="store_true", help="let torchvision download what is missing")
    group.add_argument("--cache", type=Path, metavar="DIR", help="for unpacked files and reference features "
                       "(default ~/.cache/spectral-sampler)")  # fmt: skip
    group.add_argument("--train-size", type=int, metavar="ROWS")
    group.add_argument("--validation", type=float, metavar="SHARE", help="of the training rows, cut off and measured")
    group.add_argument("--image-size", type=int, metavar="PIXELS", help="side of photographs (default 64)")
    group.add_argument("--reference", metavar="NAME", help="held-out, twin, untrained, lite0, resnet50 or minilm; "
                       "module:function, which returns a module; or the path of a store")  # fmt: skip
    group.add_argument("--reference-epochs", type=int, metavar="EPOCHS")


def add_training(parser: argparse.ArgumentParser) -> None:
    """The learner, and how it is trained."""
    faults = parser.add_argument_group("faults put into the training rows")
    faults.add_argument("--label-noise", type=float, metavar="SHARE", help="share of labels changed to another class")
    faults.add_argument("--confusion-noise", type=float, metavar="SHARE", help="share of each class labelled as the "
                        "class that it looks most like")  # fmt: skip
    faults.add_argument("--overlap", type=float, metavar="SHARE", help="share of the classes split into two that "
                        "cannot be told apart")  # fmt: skip
    faults.add_argument("--imbalance", type=float, metavar="RATIO", help="most frequent class to rarest, such as 10")
    faults.add_argument("--duplicate", type=float, metavar="SHARE", help="share of rows that copy another row")
    training = parser.add_argument_group("training")
    training.add_argument("--learner", metavar="MODULE:FUNCTION", help="returns the module to train (default: a small "
                          "network that fits the kind of data)")  # fmt: skip
    training.add_argument("--epochs", type=int)
    training.add_argument("--candidate-batch-size", "--batch-size", type=int, metavar="N")
    training.add_argument("--optimizer", metavar="NAME", help="adamw (default), adam or sgd")
    training.add_argument("--learning-rate", "--lr", type=float)
    training.add_argument("--learning-rate-schedule", "--lr-schedule", metavar="NAME", help="cosine (default), "
                          "constant or step")  # fmt: skip
    training.add_argument("--weight-decay", type=float)
    training.add_argument("--momentum", type=float, help="of sgd (default 0.9)")
    training.add_argument("--pretrained", action="store_true", default=None, help="ImageNet weights for the ResNet-18")
    training.add_argument("--device", help="where the learner trains (default cpu)")
    training.add_argument("--backend", help="of the solver, see `spectral-sampler explain` (default auto)")


def add_ratio(parser: argparse.ArgumentParser, default: str = "sigmoid") -> None:
    """How much is kept, and when; ``default`` is the schedule."""
    ratio = parser.add_argument_group("keep ratio")
    ratio.add_argument(
        "--schedule",
        metavar="NAME",
        help="sigmoid, constant, linear, gamma, sinc, sinusoid, mellow-aimd, aggressive-aimd, plateau or bandit "
        f"(default {default})",
    )
    ratio.add_argument("--keep-ratio", type=float, metavar="MEAN", help="mean over the training (default 0.30)")
    ratio.add_argument("--keep-min", type=float, metavar="RATIO", help="default 0.18")
    ratio.add_argument("--keep-max", type=float, metavar="RATIO", help="default 0.88")


def add_equal(parser: argparse.ArgumentParser) -> None:
    """What the trainings of a comparison have in common."""
    equal = parser.add_argument_group("what is equal")
    equal.add_argument("--equal", metavar="WHAT", help="samples (default), or flops: every policy stops at what "
                       "uniform spends; looking at candidates and the reference count")  # fmt: skip
    equal.add_argument("--runs-per-reference", type=int, metavar="K", help="trainings that share the reference, each "
                       "charged a K-th of it (default 1)")  # fmt: skip


def settings(arguments: argparse.Namespace) -> Any:
    """The Settings that the options come to."""
    from spectral_sampler.experiment import Settings

    given = {name: value for name in _CHANGES if (value := getattr(arguments, name, None)) is not None}
    data = arguments.data or (None if arguments.preset else arguments.default_data)
    return Settings.of(data, **given)


def places(arguments: argparse.Namespace) -> Any:
    """Where things lie on this machine."""
    from spectral_sampler.experiment import Places

    root, cache = (path and path.resolve() for path in (arguments.data_root, arguments.cache))
    return Places(root, cache, arguments.download, tuple(getattr(arguments, "plugin", ())))


def title(data: str) -> str:
    """A short name of what ``--data`` names: of a file or folder its own, of a function the function's."""
    return Path(data).stem if Path(data).exists() else data.rpartition(":")[2]
