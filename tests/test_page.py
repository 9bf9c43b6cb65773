"""The page: whole, true to the results, safe with hostile names, and shown by a browser."""

import base64
import io
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")

from comparison_cases import POLICIES, comparison
from PIL import Image

from spectral_sampler import suspects
from spectral_sampler.errors import ArgumentError
from spectral_sampler.experiment import Cell, Places, Settings, run_cell
from spectral_sampler.experiment import cell as cells
from spectral_sampler.experiment.demo import conditions, summary
from spectral_sampler.experiment.page import write_page
from spectral_sampler.experiment.page.examples import suspicion, training
from spectral_sampler.experiment.page.markup import Html, element, shortened, text
from spectral_sampler.experiment.page.samples import Shown, gallery, look
from spectral_sampler.experiment.reference import reference_for
from spectral_sampler.experiment.samples import ImageSamples, TensorSamples, TextSamples

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
HOSTILE = [
    "<script>document.title = 'taken'</script>",
    '"><img src=http://evil.example/x onerror="document.title=1">',
    "</td></table><style>*{display:none}</style>",
    "$\\frac{",
    "a & b &amp; ' c",
    "\udcff\u202ereversed",
]
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer", "h1", "h2", "h3", "h4"),
    *("p", "ul", "li", "dl", "div", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th", "td", "a", "img"),
    *("figure", "figcaption", "blockquote", "span", "b", "br", "details", "summary", "pre", "code"),
}
VOID = {"img", "meta", "br"}


class Page(HTMLParser):
    """What a page holds; fails where elements are not closed in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.words, self.open, self.tables = [], [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attributes]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            return
        self.words.append(data)
        if self.tables and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def images(self) -> list[str]:
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]


def read(path: Path) -> Page:
    """The page, having seen that it asks for nothing outside itself."""
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert set(page.tags) <= TAGS
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "srcset", "action", "data", "poster", "background"}:
            assert value.startswith("#" if tag == "a" else "data:image/"), (tag, name)
    assert not re.search(r"url\(|@import", re.search(r"<style>(.*?)</style>", source, re.DOTALL).group(1))
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(identifiers)) == len(identifiers)
    assert {value[1:] for tag, name, value in page.attributes if (tag, name) == ("a", "href")} <= set(identifiers)
    assert page.tags.count("img") == sum(
        1 for tag, name, value in page.attributes if (tag, name) == ("img", "alt") and value
    )
    assert len(source) < 3_000_000
    return page


def trained(folder: Path, noise: float = 0.2) -> tuple[dict, Places]:
    """Results of a real comparison, small enough to be run here."""
    settings = Settings.of("digits", epochs=2, train_size=300, label_noise=noise, reference_epochs=8)
    places, policies, seeds = Places(cache=folder / "cache"), ["full", "uniform", "plausible-even"], [3, 4]
    found = [run_cell(Cell(settings, policy, seed), places) for policy, seed in itertools.product(policies, seeds)]
    results = {
        "settings": settings.record(), "policies": policies, "seeds": seeds, "classes": list("0123456789"),
        "rows": {"train": 300, "held_out": 400, "test": 597}, "keep_ratios": [0.2, 0.4, 0.6, 0.8],
        "circumstances": {"command": "made <here>", "date": "2026-01-01", "commit": "abc", "versions": {"torch": "2"},
                          "machine": {"system": "Linux", "cores": 2}},
        "cells": json.loads(json.dumps(found)),
    }  # fmt: skip
    return results, places


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("page"))


@pytest.fixture
def pilot() -> dict:
    seconds = {"extraction": 1.25, "selection": 0.5, "training": 10.0, "total": 11.75, "against_total": 30.0}
    return {
        "verdict": "yes", "reason": "PlausibleEven is ahead <clearly>.", "keep_ratio": 0.3,
        "proposed": {"selection": "plausible-even", "keep_ratio": 0.3, "code": "curate(loader, store, x=a < b)"},
        "expected": [
            {"against": "uniform", "keep_ratio": 0.3, "points": 1.5, "low": 0.5, "high": 2.5, "seconds": seconds},
            {"against": "full", "keep_ratio": 0.3, "points": -0.5, "low": -60.0, "high": 59.0, "seconds": seconds},
        ],
        "data": {"rows": 300, "classes": list("0123456789"), "rows_per_class": [30] * 10, "suspected": 12,
                 "suspected_share": 0.04, "copies": 0, "imbalance": 1.0, "overlap": [[3, 8, 0.25]],
                 "reference_accuracy": 0.9},
        "advice": ["Look at the suspects.", "<b>Not bold</b>"],
        "measured": {"seconds": 55.0, "learner_flops": 2e9, "runs": [
            {"policy": "uniform", "seed": 0, "rows": 200, "epochs": 2, "test_accuracy": 0.91}]},
        "examples": {"suspects": [{"row": 7, "label": 3, "looks_like": 8}], "kept": [1, 2], "left": [5]},
        "settings": Settings.of("digits", epochs=2, train_size=300).record(), "circumstances": {"command": "pilot"},
    }  # fmt: skip


def test_text_is_escaped_unless_it_was_made_here():
    assert element("p", "<b>", Html("<b>"), title='"') == '<p title="&quot;">&lt;b&gt;<b></p>'
    assert text("\udcff") == "?"
    assert element("br") == "<br>"
    assert element("p", class_=None, aria_label=1) == '<p aria-label="1"></p>'
    assert shortened("a\n b " * 40, 10) == "a b a b a…"
    assert shortened("short") == "short"


def test_the_page_shows_the_numbers_of_the_comparison(tmp_path):
    results = comparison(noisy=True)
    page = read(write_page(tmp_path / "deep" / "index.html", results))
    rows = {line[0]: line for line in page.tables[0]}
    assert list(rows) == ["policy", *POLICIES]
    assert rows["gstds"][1:5] == ["91.30 ± 3.82", "+4.97 ± 0.14", "300", "30.0 %"]
    assert rows["saln"][2].startswith("−14.67 ± ")
    assert rows["uniform"][2] == ""
    assert rows["full"][-1] == "10.0 %"
    assert "gstds beats as many samples chosen at random here" in page.text
    assert "Not decided by these seeds: loss-weighted." in page.text
    assert ("td", "class", "gain") in page.attributes
    classes = next(made for made in page.tables if made[0][0] == "class")
    assert [line[0] for line in classes[1:]] == ["dog", "cat"]
    assert classes[1][2:] == ["125 %"] * 4, "uniform and three selections"
    assert len(page.images()) == 4  # differences, accuracy, keep ratio, one batch
    for image in page.images():
        drawn = base64.b64decode(image.removeprefix("data:image/svg+xml;base64,"))
        assert b"<svg" in drawn
        assert not re.search(rb'(href|src)="(?!#)', drawn)
    alts = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert "gstds +4.97 ± 0.14" in alts[0]
    assert "gstds 91.3 %" in alts[1]


def test_the_same_results_give_the_same_bytes(tmp_path):
    pages = [write_page(tmp_path / name, comparison()).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_several_conditions_share_a_page(tmp_path):
    both = [("Clean <labels>", comparison()), ("Wrong labels", comparison(noisy=True))]
    page = read(write_page(tmp_path / "index.html", both, title="Two & two"))
    assert [line[0] for line in page.tables[0]] == ["condition", "Clean <labels>", "Wrong labels"]
    assert page.tables[0][1][1:] == ["+4.97 ± 0.14", "gstds", "91.30 ± 3.82", "86.33 ± 3.79", "91.00 ± 2.48"]
    assert page.tags.count("h2") == 2
    assert page.text.startswith("Two & two")


@pytest.mark.parametrize("results", [{}, [], {"cells": []}, [("a", {"settings": {}})]])
def test_what_is_no_result_is_refused(tmp_path, results):
    with pytest.raises(ArgumentError, match="results must be those of a comparison or a pilot"):
        write_page(tmp_path / "index.html", results)
    assert not list(tmp_path.iterdir())


def test_two_seeds_leave_no_number_wider_than_the_scale(tmp_path):
    results = comparison(seeds=2)
    for cell in results["cells"]:
        if cell["policy"] == "saln":
            cell["test_accuracy"] = 0.4 + 0.2 * cell["seed"]
    page = read(write_page(tmp_path / "index.html", results))
    assert "50.00 ± –" in page.tables[0][5]
    assert "more seeds narrow it" in page.text
    assert max(float(number) for number in re.findall(r"± (\d+\.\d+)", page.text)) <= 25.0


def hostile() -> dict:
    results = comparison()
    names = dict(zip(POLICIES[3:], HOSTILE, strict=False))
    results["policies"] = [names.get(policy, policy) for policy in POLICIES]
    for cell in results["cells"]:
        cell["policy"] = names.get(cell["policy"], cell["policy"])
        cell["selection"] = HOSTILE[0]
        cell["selected_per_class"] = [[10] * len(HOSTILE)] * 3
        cell["corruption"] = {"rows_per_class": [20] * len(HOSTILE)}
    results["classes"] = HOSTILE
    results["settings"] = {**results["settings"], "data": HOSTILE[1]}
    results["circumstances"] = {
        "command": HOSTILE[0],
        "versions": {HOSTILE[1]: HOSTILE[2]},
        "machine": {"a": HOSTILE[3]},
    }
    return results


def test_hostile_names_are_text(tmp_path):
    path = write_page(tmp_path / "index.html", [(HOSTILE[0], hostile()), (HOSTILE[1], hostile())], title=HOSTILE[2])
    page = read(path)
    assert "<script" not in path.read_text(encoding="utf-8")
    named = {line[0] for made in page.tables for line in made}
    assert {shortened(name.replace("\udcff", "?"), 40) for name in HOSTILE} <= named
    assert HOSTILE[2] in page.text


def test_samples_kept_and_left_are_those_that_were(real, tmp_path, monkeypatch):
    results, places = real
    seen = {}
    fit = cells.fit

    def watched(*arguments, **options):
        seen["trace"] = fit(*arguments, **options)
        return seen["trace"]

    monkeypatch.setattr(cells, "fit", watched)
    settings = Settings(**results["settings"])
    result = run_cell(Cell(settings, "plausible-even", 3), places)
    times = seen["trace"].selected.sum(0)
    for name, expected in (("most_selected", np.sort(times)[::-1]), ("least_selected", np.sort(times))):
        assert len({row for row, _ in result[name]}) == 24
        assert [count for _, count in result[name]] == expected[:24].tolist()
        assert all(times[row] == count for row, count in result[name])
        assert np.any(np.diff([row for row, _ in result[name]]) < 0), "ties do not go by row"
    path = write_page(tmp_path / "index.html", results, places)
    page, found = read(path), training(results, places)
    pictures = [image for image in page.images() if image.startswith("data:image/png")]
    kept = [row for row, _ in result["most_selected"]]
    assert pictures[:24] == [re.search(r'src="([^"]+)"', look(found.samples, row, "x")).group(1) for row in kept]
    row, count = result["least_selected"][0]
    truth = int(found.task.train.labels[found.rows.rows[row]])
    label = int(found.rows.labels[row])
    note = (
        f"{label}{count} time{'' if count == 1 else 's'}"
        + (f", truly {truth}" if truth != label else "")
        + f"row {row}"
    )
    assert note in page.text


def test_suspected_labels_are_counted_and_told(real, tmp_path):
    results, places = real
    found = training(results, places)
    store = reference_for(found.settings, found.task, found.rows, found.seed, places.cache).store
    suspected = suspects(store)
    said = suspicion(found, places)
    right = int((suspected & found.rows.wrong).sum())
    assert f"contradict {suspected.sum()} of 300 labels" in said.sentence
    assert f"60 were made wrong on purpose: {right} of these are among the suspected" in said.sentence
    assert all(suspected[shown.row] for shown in said.shown)
    truths = [int(found.task.train.labels[found.rows.rows[shown.row]]) for shown in said.shown]
    hits = [f"→ looks like {truth}" in shown.note for truth, shown in zip(truths, said.shown, strict=True)]
    assert len(hits) == 24
    assert np.mean(hits) > 0.8
    page = read(write_page(tmp_path / "index.html", results, places))
    assert said.sentence in page.text
    assert said.shown[0].note in page.text


def test_clean_labels_are_not_called_wrong_on_purpose(tmp_path):
    results, places = trained(tmp_path, noise=0.0)
    said = suspicion(training(results, places), places)
    assert "on purpose" not in said.sentence
    assert not any("truly" in shown.note for shown in said.shown)


def _decoded(markup: str) -> np.ndarray:
    data = re.search(r'src="data:image/png;base64,([^"]+)"', markup).group(1)
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB"))


def test_a_picture_is_its_sample():
    grey = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8) * 4
    shown = _decoded(look(TensorSamples(grey, np.array([0]), scale=(0.5, 0.5)), 0, "x"))
    assert shown[..., 0].tolist() == grey[0, 0].tolist()
    floats = (grey.float() - 40.0) / 3.0
    stretched = _decoded(look(TensorSamples(floats, np.array([0])), 0, "x"))
    assert np.abs(stretched[..., 1].astype(float) - grey[0, 0].double().numpy() * 255 / 252).max() <= 0.5
    colours = torch.zeros(1, 3, 8, 10)
    colours[0, 0, :, :5], colours[0, 2, :, 5:] = 1.0, 1.0
    shown = _decoded(look(TensorSamples(colours, np.array([0])), 0, "x"))
    assert shown.shape == (8, 10, 3)
    assert shown[0, 0].tolist() == [255, 0, 0]
    assert shown[7, 9].tolist() == [0, 0, 255]
    constant = _decoded(look(TensorSamples(torch.full((1, 1, 8, 8), torch.nan), np.array([0])), 0, "x"))
    assert len(np.unique(constant)) == 1


def test_a_photograph_is_shown_small_and_without_normalisation():
    transforms = pytest.importorskip("torchvision.transforms")
    evaluated = transforms.Compose([
        transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    source = [(Image.new("RGB", (200, 100), (10, 200, 30)), 0)]
    samples = ImageSamples(source, np.array([0]), np.array([0]), lambda _: pytest.fail("augmented"), evaluated)
    shown = _decoded(look(samples, 0, "x"))
    assert shown.shape == (28, 56, 3)
    assert np.abs(shown.astype(int) - (10, 200, 30)).max() <= 1


def test_texts_are_shortened_and_escaped_and_tables_show_their_first_columns():
    texts = [HOSTILE[0], "word " * 100]
    samples = TextSamples(torch.zeros(2, 4, dtype=torch.int64), np.array([0, 1]), texts)
    markup = gallery(samples, [Shown(0, HOSTILE[1]), Shown(1, "b", "noted")])
    page = Page(markup)
    assert set(page.tags) == {"ul", "li", "figure", "blockquote", "figcaption", "b", "br", "span"}
    assert HOSTILE[0] in page.text
    assert len(max(page.words, key=len)) == 160
    assert "noted" in page.words
    wide = TensorSamples(torch.arange(20.0).reshape(2, 10) / 3, np.array([0, 1]))
    assert Page(look(wide, 1, "x")).text == "3.33 · 3.67 · 4 · 4.33 · 4.67 · 5 and 4 more"
    assert "<img" not in gallery(None, [Shown(0, "a")])


def test_a_pilot_has_a_page(real, pilot, tmp_path):
    page = read(write_page(tmp_path / "pilot.html", pilot, real[1]))
    assert page.text.startswith("Does selection pay on digits?")
    assert "yes" in page.words
    assert "PlausibleEven is ahead <clearly>." in page.text
    assert "curate(loader, store, x=a < b)" in page.text
    assert page.tables[0][1][1:] == ["0.30", "+1.50", "+0.50 to +2.50", "1.2", "0.5", "10.0", "11.8", "30.0"]
    assert page.tables[0][2][3] == "–"
    assert "<b>Not bold</b>" in page.text
    assert "3 and 8 (25 %)" in page.text
    assert "→ looks like 8" in page.text
    assert sum(image.startswith("data:image/png") for image in page.images()) == 4
    assert ("div", "class", "verdict yes") in page.attributes


def test_a_pilot_of_a_part_names_classes_pairs_and_the_rows_that_its_learner_saw(real, pilot, tmp_path):
    data, found = pilot["data"], training(real[0], real[1])
    data.update(rows_in_all=5000, classes=10, near_copies=7, features_informative=False)
    data["overlap"] = [{"classes": ["<i>", "8"], "shares": [0.25, 0.125]}]
    pilot["examples"] = {"suspects": [{"row": 7, "label": "<i>", "looks_like": "8"}], "kept": [4], "left": []}
    pilot["settings"].update(label_noise=0.5, duplicate=0.5)
    path = write_page(tmp_path / "pilot.html", pilot, real[1])
    page = read(path)
    assert "300 looked at, of 5,000" in page.text
    assert "<i> and 8 (25 % and 12 %)" in page.text
    assert "suspects mean nothing" in page.text
    assert "12 (4.0 %)" in page.text
    assert "<i>→ looks like 8row 7" in page.text
    source = path.read_text(encoding="utf-8")
    seen = training({"settings": pilot["settings"]}, real[1])
    assert (4 in seen.rows.rows) == ("Selected most" in page.text)
    for row in {7, *([4] if 4 in seen.rows.rows else [])}:
        picture = re.search(r'src="([^"]+)"', look(found.task.train, row, "x")).group(1)
        assert picture in source, "rows are those of the training part, whatever was copied"


def test_accuracy_on_every_part_is_shown_where_it_is_known(tmp_path):
    results = comparison()
    for cell in results["cells"]:
        cell.update(train_accuracy=0.75, validation_accuracy=None, test_balanced_accuracy=0.5 + 0.01 * cell["seed"])
    page = read(write_page(tmp_path / "index.html", results))
    header, first, *_ = page.tables[1]
    assert header == ["policy", "training rows, %", "test, %", "test, mean over classes, %"]
    assert first == ["full", "75.00 ± 0.00", "91.00 ± 2.48", "51.00 ± 2.48"]


@pytest.mark.parametrize("verdict", ["no", "undecided"])
def test_a_pilot_that_says_little_has_a_page_too(pilot, tmp_path, verdict):
    page = read(write_page(tmp_path / "pilot.html", {"verdict": verdict, "reason": "Why <not>."}))
    assert ("div", "class", f"verdict {verdict}") in page.attributes
    assert "Why <not>." in page.text
    pilot.update(verdict=verdict, examples={}, expected=[], advice=[])
    pilot["data"].update(overlap=[], suspected_share=None, rows_per_class={"a": 3, "<b>": 9})
    page = read(write_page(tmp_path / "pilot.html", pilot))
    assert [line[0] for line in page.tables[0]] == ["class", "<b>", "a"]


def test_many_classes_and_photographs_stay_under_three_megabytes(tmp_path):
    results = comparison(seeds=3)
    classes = 120
    for cell in results["cells"]:
        cell["selected_per_class"] = [list(range(classes))] * 3
        cell["corruption"] = {"rows_per_class": [200] * classes}
        cell["curve"] = [
            {**cell["curve"][-1], "samples": 10 * step, "test_accuracy": 0.5 + 0.001 * step} for step in range(1, 201)
        ]
    results["classes"] = [f"class {number}" for number in range(classes)]
    page = read(write_page(tmp_path / "index.html", [(f"condition {number}", results) for number in range(3)]))
    shown = next(made for made in page.tables if made[0][0] == "class")
    assert [line[0] for line in shown[1:]] == [f"class {n}" for n in [*range(119, 111, -1), *range(7, -1, -1)]]
    noise = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert len(look(TensorSamples(noise, np.array([0]), scale=(0.5, 0.5)), 0, "x")) < 6_000


def test_the_demo_compares_clean_labels_with_wrong_ones_at_enough_seeds():
    for quick in (False, True):
        clean, wrong = conditions(quick=quick)
        assert (clean.settings.label_noise, wrong.settings.label_noise) == (0.0, 0.2)
        assert clean.settings.epochs == wrong.settings.epochs
        assert "plausible-even" in clean.policies
        assert len(clean.seeds) == len(wrong.seeds) >= 5
    said = summary("Clean", comparison())
    assert said.startswith("Clean\n=====\npolicy ")
    assert said.rstrip().endswith("all of them give 91.0 %.")


CHECK = """<script>
const violations = [], errors = [];
addEventListener("securitypolicyviolation", event => violations.push(event.blockedURI));
addEventListener("error", event => errors.push(String(event.message)), true);
addEventListener("load", () => {
  document.querySelectorAll("details").forEach(part => part.open = true);
  document.documentElement.dataset.seen = JSON.stringify({
    widths: [...document.images].map(image => image.complete ? image.naturalWidth : 0),
    tables: [...document.querySelectorAll("table")].map(made => made.rows.length),
    wide: document.documentElement.scrollWidth - innerWidth,
    resources: performance.getEntriesByType("resource").map(entry => entry.name.slice(0, 11)),
    hidden: getComputedStyle(document.querySelector("h1")).display, title: document.title, violations, errors});
});
</script>"""


def _browse(path: Path, folder: Path, *options: str) -> str:
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *quiet, *options]
    command += [f"--user-data-dir={folder / 'profile'}", path.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert "CONSOLE" not in run.stderr
    return run.stdout


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on PATH")
@pytest.mark.parametrize("kind", ["comparison", "pilot", "hostile"])
def test_a_browser_shows_the_page(kind, real, pilot, tmp_path):
    made = {
        "comparison": ([("Clean", comparison()), ("Wrong", real[0])], None),
        "pilot": (pilot, real[1]),
        "hostile": ([(HOSTILE[0], hostile()), (HOSTILE[1], hostile())], None),
    }[kind]
    path = write_page(tmp_path / "index.html", *made)
    page, source = read(path), path.read_text(encoding="utf-8")
    # What looks at the page needs a script, which the page itself forbids: a copy lets this one in.
    nothing = "default-src &#x27;none&#x27;;"
    assert source.count(nothing) == 1
    script = CHECK.replace("<script>", '<script nonce="test">')
    allowed = source.replace(nothing, f"{nothing} script-src &#x27;nonce-test&#x27;;")
    copy = tmp_path / "checked.html"
    copy.write_text(allowed.replace("</head>", f"{script}</head>"), encoding="utf-8")
    dom = _browse(copy, tmp_path, "--window-size=500,900", "--enable-logging=stderr", "--dump-dom")
    seen = json.loads(dict(Page2(dom).first)["data-seen"])
    assert len(seen["widths"]) == len(page.images()) > 0
    assert min(seen["widths"]) > 0
    assert seen["tables"] == [len(made) for made in page.tables]
    assert seen["wide"] <= 0, "the page scrolls sideways on a small screen"
    assert all(name == "data:image/" for name in seen["resources"])
    assert seen["errors"] == []
    assert seen["violations"] == []
    assert seen["hidden"] == "block"
    assert "taken" not in seen["title"] or kind == "hostile"
    picture = tmp_path / "page.png"
    _browse(path, tmp_path, "--window-size=1200,1600", "--enable-logging=stderr", f"--screenshot={picture}")
    with Image.open(picture) as image:
        dark = (np.asarray(image.convert("L")) < 128).mean()
    assert 0.01 < dark < 0.5


class Page2(HTMLParser):
    """The attributes of the first element, as a browser wrote it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.first: list = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.first = self.first or attributes
