"""Paper facts are data: how they are cited, and that pages and cards say the same."""

import re
from pathlib import Path

import pytest

from gramian import Pairwise, losses, papers, scores
from gramian.papers import Paper

ROOT = Path(__file__).parents[1]
PAPERS = [value for value in vars(papers).values() if isinstance(value, Paper)]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_an_entry_has_what_is_known_and_nothing_else(paper):
    assert paper.arxiv is None or re.fullmatch(r"\d{4}\.\d{5}", paper.arxiv)
    entry = paper.bibtex()
    assert re.match(r"@misc\{[a-z]+\d{4}[a-z]*,\n", entry) and entry.endswith("\n}")
    assert entry.count("{") == entry.count("}") and "None" not in entry
    for known in (paper.title or paper.name, paper.author or "", str(paper.year), paper.venue or "", paper.arxiv or ""):
        assert known in entry
    assert ("eprint" in entry) is (paper.arxiv is not None) and ("author" in entry) is (paper.author is not None)
    assert str(paper).startswith(f"{paper.name}, ") and str(paper.year) in paper.cite() and "None" not in paper.cite()


def test_names_and_keys_are_one_paper_s_own():
    assert len({paper.name for paper in PAPERS}) == len({paper.bibtex().split(",")[0] for paper in PAPERS}) == len(PAPERS)


def test_the_readme_s_tables_name_the_papers_of_scores_and_losses():
    rows = re.findall(r"^\| (`\w+`.*?) \|.*\| ([^|]*) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.M)
    cells = {name: cell for names, cell in rows for name in re.findall(r"`(\w+)`", names)}
    for name, score in scores.SCORES.items():
        assert all(paper.name in cells[name] for paper in score.papers), name
    for name, make in losses.LOSSES.items():
        assert all(str(paper) in cells[name] for paper in make().papers), name
    assert all(str(paper) in cells["Pairwise"] for paper in Pairwise(anchor="text").papers)
    assert papers.IMAGEBIND in Pairwise(anchor="text").papers and papers.IMAGEBIND not in Pairwise().papers


def test_a_number_stands_in_one_place():
    for paper in PAPERS:
        files = [
            path for path in (ROOT / "src").rglob("*.py") if paper.arxiv and paper.arxiv in path.read_text(encoding="utf-8")
        ]
        assert len(files) == (paper.arxiv is not None), paper.name
