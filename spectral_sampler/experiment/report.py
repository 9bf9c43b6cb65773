"""From numbers to a table, a verdict in words, and a JSON file that can be read back."""

from __future__ import annotations

import json
import math
import os
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_sampler.errors import argument_error
from spectral_sampler.experiment.outcomes import (
    BASELINE,
    SECONDS,
    STRONGEST,
    WIDEST,
    Estimate,
    Row,
    at_equal_flops,
    by_policy,
    estimate,
    leader,
    margin,
    not_compared,
    pays,
    rows,
    selections,
    strongest,
)
from spectral_sampler.experiment.policies import CEILINGS, FULL, FULL_EQUAL_COMPUTE, PROBE

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "STRONGEST",
    "WIDEST",
    "Estimate",
    "Row",
    "by_policy",
    "check_writable",
    "cost_columns",
    "cost_note",
    "costs",
    "estimate",
    "footnote",
    "headline",
    "leader",
    "not_compared",
    "pays",
    "read_json",
    "rows",
    "strongest",
    "table",
    "verdict",
    "write_json",
    "write_text",
]


def _aligned(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; a title breaks at its line break."""
    titles = [title.partition("\n")[::2] for title in header]
    top, bottom = ([title[place] for title in titles] for place in (0, 1))
    shown = [top, *([bottom] if any(bottom) else []), *body]
    widths = [max(len(row[column]) for row in shown) for column in range(len(header))]
    text = ["  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in
                      enumerate(zip(row, widths, strict=True))) for row in shown]  # fmt: skip
    text.insert(len(shown) - len(body), "  ".join("-" * width for width in widths))
    return text


def table(lines: Sequence[Row]) -> str:
    """How every policy came out, as text."""
    noisy, control = any(line.wrong_label_share > 0 for line in lines), strongest(lines)
    columns = {
        "policy": [line.policy for line in lines],
        "test\naccuracy %": [line.accuracy.percent() for line in lines],
        "balanced\naccuracy %": [line.balanced.percent() if line.balanced else "" for line in lines],
        "minus\nuniform": [line.difference.percent(signed=True) if line.difference else "" for line in lines],
        "minus\nstrongest": [line.margin.percent(signed=True) if line.margin else "" for line in lines],
        "samples": [f"{line.samples:,.0f}" for line in lines],
        "of full": ["" if math.isnan(line.samples_ratio) else f"{100 * line.samples_ratio:.1f} %" for line in lines],
        "wrong\nlabels": [f"{100 * line.wrong_label_share:.1f} %" for line in lines],
    }
    hidden = {
        "balanced\naccuracy %": not any(line.balanced for line in lines),
        "minus\nstrongest": control in {None, BASELINE},
        "of full": any(line.equal_flops is not None for line in lines),
        "wrong\nlabels": not noisy,
    }
    shown = {title: values for title, values in columns.items() if not hidden.get(title)}
    body = [list(entries) for entries in zip(*shown.values(), strict=True)]
    return "\n".join([*_aligned(list(shown), body), footnote(lines)])


def footnote(lines: Sequence[Row]) -> str:
    """What the numbers of `table` are, and why an interval is missing where one is."""
    counts = sorted({line.seeds for line in lines})
    seeds = f"{'/'.join(map(str, counts))} seed{'' if counts == [1] else 's'}"
    text = f"Means over {seeds}, ± half of the 95 % t-interval; differences are paired by seed."
    if (control := strongest(lines)) not in {None, BASELINE}:
        text += f" Strongest: {control}, {_picked(lines)}."
    if any(line.wrong_label_share > 0 for line in lines):
        text += " Last column: wrong labels among the samples trained on."
    estimates = [value for line in lines for value in (line.accuracy, line.difference, line.margin) if value]
    if any(value.too_wide for value in estimates):
        text += f" ± –: too few seeds for an interval within ± {100 * WIDEST:.0f} points; more seeds narrow it."
    return text


def _picked(lines: Sequence[Row]) -> str:
    count = sum(line.policy in STRONGEST for line in lines)
    return f"the best of {count} controls by its mean over the same seeds, which is conservative for the policies"


def costs(lines: Sequence[Row]) -> str:
    """What one training cost, as text: GFLOP, and seconds where they mean anything."""
    titles, body = cost_columns(lines)
    return "\n".join([*_aligned(titles, body), textwrap.fill(cost_note(lines), 120)])


def cost_columns(lines: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Titles and entries of the table of costs; without seconds unless every training ran alone."""
    alone = all(line.alone for line in lines)
    titles = ["policy", "samples", "training\nGFLOP", "looking\nGFLOP", "reference\nGFLOP", "together\nGFLOP"]
    titles += [*(f"{part}\ns" for part in SECONDS), "together\ns"] if alone else []
    body = []
    for line in lines:
        known = (line.flops - line.looking, line.looking, line.reference, line.flops + (line.reference or 0.0))
        flops = ["" if value is None else f"{value / 1e9:,.2f}" for value in known]
        seconds = [*(line.seconds[part] for part in SECONDS), sum(line.seconds.values())] if alone else []
        body.append([line.policy, f"{line.samples:,.0f}", *flops, *(f"{value:.2f}" for value in seconds)])
    return titles, body


def cost_note(lines: Sequence[Row]) -> str:
    """What was counted, and why there are no seconds where there are none."""
    text = "Of one training: forward and backward of its samples, forwards for looking at candidates, its share of the "
    text += "reference that it needs."
    if any(line.ready_made for line in lines):
        text += " This reference was there before: what it took to make counts as 0."
    if any(line.reference is None for line in lines):
        text += " Older trainings did not count the reference."
    if all(line.alone for line in lines):
        return f"{text} Seconds: without the reference; selection is how long training waited for it."
    return f"{text} No seconds: these trainings did not each have the machine to themselves (--jobs 1)."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def headline(lines: Sequence[Row]) -> str:
    """Whether a selection beats the strongest control, what training on everything reaches, and whether a linear probe
    does better than all of it."""
    best, control = leader(lines), strongest(lines)
    if best is None:
        return " ".join(["Nothing was compared with uniform selection.", *_probe(lines)])
    points = f"{margin(best).percent(signed=True)} points"
    at_random = "samples chosen at random for as many FLOPs" if at_equal_flops(lines) else (
        "as many samples chosen at random")  # fmt: skip
    what = at_random if control in {None, BASELINE} else f"{control}, the strongest control,"
    text = f"{best.policy} beats {what} here: {points}."
    if not pays(lines):
        text = f"No selection clearly beats {what} here (best: {best.policy}, {points})."
    full = next((line for line in lines if line.policy == FULL), None)
    if full is not None and not at_equal_flops(lines):
        numbers = f"{100 * best.accuracy.mean:.1f} % with {100 * best.samples_ratio:.0f} % of the samples"
        text = f"{text} It reaches {numbers}; all of them give {100 * full.accuracy.mean:.1f} %."
    return " ".join([text, *_probe(lines, alone=True)])


def verdict(lines: Sequence[Row]) -> str:
    """Who beats or loses to uniform selection and the strongest control with an interval clear of zero, and what the
    ceiling is, in plain words."""
    control = strongest(lines)
    equal = "FLOPs" if at_equal_flops(lines) else "number of samples"
    sentences = _against("uniform selection", {line.policy: line.difference for line in selections(lines)}, equal)
    if control not in {None, BASELINE}:
        name = f"{control}, the strongest control,"
        sentences += _against(
            name, {line.policy: line.margin for line in selections(lines)}, equal, f" against {control}"
        )
        sentences.append(f"That control is {_picked(lines)}.")
    elif sum(line.policy in STRONGEST for line in lines) > 1:
        sentences.append("No control is stronger than uniform here.")
    sentences += [] if at_equal_flops(lines) else _other_samples(lines)
    for policy, what in (
        (FULL, "Training on everything"),
        (FULL_EQUAL_COMPUTE, "Ordinary training stopped at equal compute"),
    ):
        difference = next((line.difference for line in lines if line.policy == policy), None)
        if difference and not (policy == FULL and at_equal_flops(lines)):  # where it stops as early as the other
            sentences.append(f"{what} differs from uniform by {difference.percent(signed=True)} points.")
    oracle = max((line for line in lines if line.policy in CEILINGS), key=lambda line: line.accuracy.mean, default=None)
    if oracle is not None:
        reached = oracle.accuracy.percent()
        sentences.append(f"The ceiling: {oracle.policy}, which knows the true labels, reaches {reached} %.")
    return "\n".join([*sentences, *_probe(lines)])


def _against(name: str, differences: dict[str, Estimate | None], equal: str, whom: str = "") -> list[str]:
    """Who beats, who loses to, and who cannot be told from what ``name`` names."""
    compared = {policy: value for policy, value in differences.items() if value is not None}
    sentences = []
    for word, sign in (("beat", 1), ("lose to", -1)):
        clear = {policy: value for policy, value in compared.items()
                 if value.clear_of_zero and math.copysign(1, value.mean) == sign}  # fmt: skip
        if clear:
            listed = _listed([f"{policy} ({value.percent(signed=True)} points)" for policy, value in clear.items()])
            verb = word if len(clear) > 1 else {"beat": "beats", "lose to": "loses to"}[word]
            sentences.append(f"{listed} {verb} {name} at the same {equal}.")
        else:
            sentences.append(f"No policy {'beats' if sign > 0 else 'loses to'} {name} with an interval clear of zero.")
    unclear = [policy for policy, value in compared.items() if not value.clear_of_zero]
    return [*sentences, *([f"Not decided by these seeds{whom}: {_listed(unclear)}."] if unclear else [])]


def _other_samples(lines: Sequence[Row]) -> list[str]:
    """Who trained on another number of samples than uniform, by more than a hundredth: who leaves rows out of an epoch
    (InfoBatch, SeTa), or whose keep ratio followed the loss."""
    uniform = next((line.samples for line in lines if line.policy == BASELINE), math.nan)
    others = [f"{line.policy} {line.samples:,.0f}" for line in selections(lines)
              if abs(line.samples - uniform) > uniform / 100]  # fmt: skip
    return [f"Not the same number of samples: {_listed(others)}, uniform {uniform:,.0f}."] if others else []


def _probe(lines: Sequence[Row], *, alone: bool = False) -> list[str]:
    """What the linear probe reaches, and whether that is more than any training does; only the latter ``alone``."""
    probe = next((line for line in lines if line.policy == PROBE), None)
    trained = [line for line in lines if line.policy not in {PROBE, *CEILINGS}]
    if probe is None or not trained:
        return []
    best = max(trained, key=lambda line: line.accuracy.mean)
    reached = f"A linear probe on the reference features alone reaches {100 * probe.accuracy.mean:.1f} %"
    if probe.accuracy.mean > best.accuracy.mean and margin(probe).clear_of_zero:
        return [f"{reached}: train that (the best training, {best.policy}: {100 * best.accuracy.mean:.1f} %)."]
    return [] if alone else [f"{reached}; the best training ({best.policy}) {100 * best.accuracy.mean:.1f} %."]


def check_writable(folder: Path, ours: str = "") -> None:
    """Makes ``folder``, and says before anything is computed that nothing can be written there.

    Args:
        folder: where a page is to lie, too.
        ours: what lies beside a page that may be replaced; any other page is somebody's.

    Raises:
        ArgumentError: with what the operating system says, or for somebody's page.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = f"{error.strerror or error}. Pass another one."
        raise argument_error("out", "a folder that can be written", folder, remedy) from error
    if ours and (folder / "index.html").exists() and not (folder / ours).exists():
        rule, value = "a folder without a page of something else", f"{folder} with index.html"
        raise argument_error("out", rule, value, "Pass another one, or move that page.")


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` whole or not at all; refuses NaN and infinity, which JSON has not."""
    write_text(path, _readable(value) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all; lone surrogates, as file names may hold them, as ``\\udcff``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace", dir=path.parent, prefix=".", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _readable(value: Any, indent: str = "") -> str:
    """JSON with a line for every entry, except that a list of plain values keeps to one line."""
    deeper = indent + " "
    if isinstance(value, dict) and value:
        entries = [f"{deeper}{json.dumps(key)}: {_readable(part, deeper)}" for key, part in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(part, (list, dict)) for part in value):
        return "[\n" + ",\n".join(deeper + _readable(part, deeper) for part in value) + f"\n{indent}]"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        ArgumentError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise argument_error("path", "a readable JSON file", path, str(error)) from None
