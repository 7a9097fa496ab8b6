"""The README's tree and tables are true; tests/test_book.py runs its snippets and commands and follows its links."""

import re
import runpy
from pathlib import Path

import pytest

from gramian.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"^make ([\w-]+)", page, flags=re.M):
            assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_tree_names_what_is_there():
    tree = _blocks("text")[1]
    named = set(re.findall(r"^  (\S+)", tree, flags=re.M))
    source = ROOT / "src" / "gramian"
    there = {path.name + "/" * path.is_dir() for path in source.iterdir() if not path.name.startswith(("__", "py.typed"))}
    assert named == there - {"errors.py", "files.py"}


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_configs_run(config, tmp_path):
    words = ["train", "--config", str(config), "--output", str(tmp_path / "run"), "--recipe.epochs", "1"]
    assert main(words) == 0


def test_the_demo_table_is_that_of_the_results():
    """The README repeats the first table of docs/results/demo.md to the letter."""
    results = (ROOT / "docs" / "results" / "demo.md").read_text()
    table = re.search(r"^\| objective .*?(?=\n\n)", results, flags=re.M | re.S)
    assert table
    assert table[0] in README


def test_the_page_of_the_scores_is_that_of_the_code(capsys):
    runpy.run_module("gramian.scores.__main__", run_name="__main__")
    assert capsys.readouterr().out == (ROOT / "docs" / "scores.md").read_text()


def test_the_page_of_the_objectives_has_the_markers_that_its_command_fills():
    page = (ROOT / "docs" / "objectives.md").read_text()
    for marker in ("synthetic", "stamps", "challenge", "tuned", "served"):
        assert re.search(rf"^<!-- {marker} -->$.+^<!-- /{marker} -->$", page, flags=re.M | re.S), marker


def test_the_page_of_the_closed_form_has_the_marker_that_its_command_fills():
    page = (ROOT / "docs" / "canonical.md").read_text()
    assert re.search(r"^<!-- learning-curve -->$.+^<!-- /learning-curve -->$", page, flags=re.M | re.S)
