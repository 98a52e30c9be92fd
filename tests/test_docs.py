"""README and docs against what they speak of: files, config groups and commands that exist."""

import re

import pytest
from paths import ROOT

from cnnbp.cli import COMMANDS

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "examples").glob("*/README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_and_named_files_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    named = re.findall(r"`((?:cnnbp|tests|conf|benchmarks)/[\w/.]+)`", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_commands_exist(page):
    named = re.findall(r"(?:^|[`$] ?)cnnbp ([a-z]+)", page.read_text(), re.MULTILINE)
    assert set(named) <= COMMANDS.keys()


def test_every_config_group_and_choice_is_listed():
    rows = re.findall(
        r"^\| `(\w+)` \| (.*?) \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE
    )
    listed = {group: set(re.findall(r"`(\w+)`", choices)) for group, choices in rows}
    for directory in (ROOT / "conf").iterdir():
        if directory.is_dir() and directory.name not in ("hydra", "search"):
            choices = {file.stem for file in directory.glob("*.yaml")}
            if directory.name == "ablation":  # which docs/results.md lists
                choices &= listed["ablation"]
            assert listed[directory.name] == choices, directory.name


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
