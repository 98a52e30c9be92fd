"""The page of runs that were really trained.

Its numbers, that it is whole, and that it needs nothing else.
"""

import csv
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from launch import TWO_STEPS, train_in

from cnnbp.data.datasets import MNIST
from cnnbp.errors import UserError

pytest.importorskip("matplotlib")

from cnnbp.views.html_report import write_report

SMOKE = (*TWO_STEPS, "trainer.max_epochs=2")
HOSTILE = '"><script>alert(1)</script>'
VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """A parsed page: its elements as (tag, attributes, text inside), each closed in its turn."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.open = [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        element = [tag, dict(attributes), ""]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, self.getpos()

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes):
        return [
            (own, text.strip())
            for name, own, text in self.elements
            if name == tag
            and all(own.get(key.rstrip("_")) == value for key, value in attributes.items())
        ]

    def texts(self, tag, **attributes):
        return [text for _, text in self.all(tag, **attributes)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two short epochs, with its report."""
    directory = tmp_path_factory.mktemp("run")
    train_in(directory, *SMOKE, "data.val_size=5000", "name=run")
    assert (
        write_report(directory / "outputs" / "run") == directory / "outputs" / "run" / "report.html"
    )
    return directory / "outputs" / "run"


@pytest.fixture(scope="module")
def page(run):
    return Page(run / "report.html")


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, to be spoilt, without its checkpoints and its report."""
    return Path(
        shutil.copytree(
            run, tmp_path / "copy", ignore=shutil.ignore_patterns("*.ckpt", "report.html")
        )
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two finished jobs and one that failed."""
    directory = tmp_path_factory.mktemp("sweep")
    with pytest.raises(SystemExit, match="1 of 3 jobs failed"):
        train_in(directory, "-m", *SMOKE, "name=sweep", "optimizer.lr=-1,0.1,0.01")
    return directory / "outputs" / "sweep"


def test_the_key_figures_are_those_of_the_result(run, page):
    result = json.loads((run / "result.json").read_text())
    shown = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert shown["test accuracy"] == f"{result['accuracy']:.2%}"
    assert shown["validation loss"] == f"{result['val_loss']:.4f}"
    assert (shown["epochs"], shown["steps"], shown["parameters"], shown["seed"]) == (
        "2",
        "4",
        "19,866",
        "1",
    )
    assert shown["samples/s"] == f"{result['samples_per_second']:,.0f}"
    assert page.texts("h1")[0].startswith(f"{run}: {result['accuracy']:.2%}")
    assert page.texts("code") == [
        "python train.py trainer=smoke data.batch_size=16 data.eval_batch_size=100 "
        "trainer.max_epochs=2 "
        "data.val_size=5000 name=run"
    ]
    assert result["versions"]["torch"] in page.texts("td")


def test_the_curves_hold_every_logged_value(run, page, monkeypatch):
    from cnnbp.views import html_report

    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    drawn = {}
    monkeypatch.setattr(
        html_report, "draw_curves", lambda axes, kind, lines: drawn.update({kind: lines})
    )
    write_report(run, run / "again.html")
    names = {"train": "training", "val": "validation", "test": "test"}
    for kind in ("accuracy", "loss"):
        for stage, name in names.items():
            wanted = []
            for row in rows:
                if row[f"{kind}/{stage}"]:
                    wanted.append((int(row["step"]), float(row[f"{kind}/{stage}"])))
            assert wanted
            assert drawn[kind][name] == wanted
    assert len(drawn["learning rate"]["learning rate"]) == 2
    alternatives = [own["alt"] for own, _ in page.all("img", class_="chart invertible")]
    assert [text.split(" over ")[0] for text in alternatives] == [
        "Accuracy",
        "Loss",
        "Learning rate",
    ]


def test_the_classes_are_those_of_the_last_weights(run, page):
    from cnnbp.training.restore import restore

    _, data, model = restore(run)
    mnist = MNIST.load("unused")
    with torch.no_grad():
        parts = [model(data.prepare(part)) for part in mnist.test_images.split(1000)]
    predictions = torch.cat(parts).argmax(1)
    table = next(text for text in page.texts("pre") if text.startswith("class"))
    rows = [line.split() for line in table.splitlines()[1:]]
    for label, row in enumerate(rows):
        own = mnist.test_labels == label
        correct = int((predictions[own] == label).sum())
        assert row[:2] == [str(label), str(int(own.sum()))]
        assert abs(int(row[2]) - correct) <= 2  # the run's precision may differ from this one's
    shown = re.search(r"([\d,]+) of 10,000 test images are classified correctly", page.source)[1]
    assert int(shown.replace(",", "")) == sum(int(row[2]) for row in rows)
    assert len(page.all("img", class_="drawing invertible")) == 2


def test_the_page_needs_nothing_else_and_describes_its_pictures(run, page):
    assert (run / "report.html").stat().st_size < 2_000_000
    assert not re.search(r"https?:|@import|url\(|<link|<script|<iframe", page.source)
    sources = [own["src"] for own, _ in page.all("img")]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(own.get("alt") for own, _ in page.all("img"))
    assert not page.all("svg")


def test_what_comes_from_files_is_escaped(copy):
    for name in ("hydra.yaml", "config.yaml"):
        file = copy / ".hydra" / name
        file.write_text(
            file.read_text().replace("name=run", f"name='{HOSTILE}'") + f"\n# {HOSTILE}\n"
        )
    (copy / "result.json").unlink()
    (copy / "error.txt").write_text(f"ValueError: {HOSTILE}\n")
    page = Page(write_report(copy))
    assert not page.all("script")
    assert HOSTILE in page.texts("code")[0]
    assert HOSTILE in page.texts("pre")[0]
    assert f"This run has no result: ValueError: {HOSTILE}" in page.texts("p", class_="warn")[0]


def test_an_unfinished_run_shows_what_there_is(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("result.json"))
    page = Page(write_report(copy, tmp_path / "page.html"))
    assert page.texts("p", class_="warn")[0].startswith("This run is not finished.")
    shown = dict(zip(page.texts("dt"), page.texts("dd"), strict=True))
    assert shown.keys() == {"test accuracy", "test loss", "steps", "parameters", "seed"}
    assert shown["steps"] == "4"


def test_a_run_without_checkpoint_and_curves_says_so(copy):
    (copy / "result.json").unlink()
    (copy / "metrics.csv").unlink()
    page = Page(write_report(copy))
    assert not page.all("img", class_="chart invertible")
    assert re.search(
        "are missing: checkpoint .*last.ckpt: no such file", page.texts("p", class_="warn")[1]
    )
    assert "data.val_size=5000" in page.texts("code")[0]


def test_a_sweep_ranks_its_runs_and_lists_the_failed_apart(sweep, tmp_path):
    prefix = "data.batch_size=16,data.eval_batch_size=100,optimizer.lr="
    good, bad = (f"{prefix}{rate},trainer.max_epochs=2,trainer=smoke" for rate in ("0.1", "-1"))
    (sweep / good / "report.html").write_text("here")
    path = write_report(sweep, tmp_path / "elsewhere.html")
    page = Page(path)
    with (sweep / "leaderboard.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rank"]]
    ranked, failed = (table.split("</table>")[0] for table in page.source.split("<tbody>")[1:])
    names = [re.search(r"optimizer\.lr=[^,]+", row["overrides"])[0] for row in rows]
    assert re.findall(r"optimizer\.lr=[\d.]+", ranked) == names
    assert [f"{float(row['accuracy']):.2%}" in ranked for row in rows] == [True, True]
    assert bad in failed
    assert "optimizer.lr=-1: must be greater than 0" in failed
    assert page.texts("dd")[0] == "2 of 3"
    assert len(page.all("img", class_="chart invertible")) == 2
    links = [tmp_path / unquote(own["href"]) for own, _ in page.all("a")]
    assert [link.read_text() for link in links] == ["here"]
    assert "-m" in page.texts("code")[0].split()


def test_a_study_is_shown_by_its_validation_accuracy(copy):
    trial = json.loads((copy / "result.json").read_text())
    del trial["accuracy"], trial["loss"]  # a search never looks at the test set
    (copy / "result.json").write_text(json.dumps(trial))
    page = Page(write_report(copy.parent, copy / "study.html"))
    assert page.texts("dt") == ["runs finished", "best validation accuracy"]
    assert page.texts("dd") == ["1 of 1", f"{trial['val_accuracy']:.2%}"]
    assert page.texts("th", scope="col") == ["rank", "run", "validation accuracy", "seconds"]


def test_mistakes_of_the_user_are_one_line(tmp_path, copy, monkeypatch):
    with pytest.raises(UserError, match="no run here"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"missing.page\.html: cannot be written"):
        write_report(copy, tmp_path / "missing" / "page.html")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="report.html: pictures need matplotlib"):
        write_report(copy)
    assert not (copy / "report.html").exists()


def test_the_page_of_the_network_is_linked_where_there_is_one(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert not Page(write_report(copy)).all("a")
    (copy / "page.html").write_text("here")
    assert [own["href"] for own, _ in Page(write_report(copy)).all("a")] == ["page.html"]
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Page(write_report(copy, tmp_path / "elsewhere" / "report.html"))
    assert [own["href"] for own, _ in elsewhere.all("a")] == ["../copy/page.html"]
