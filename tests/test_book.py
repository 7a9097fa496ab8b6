"""The book: every page is in the sidebar, every link and anchor leads somewhere, every snippet runs."""

import importlib.util
import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch

from gramian import Aligner
from gramian.cli import main
from gramian.data import EMBEDDED, Table, load
from gramian.data.sets import digits, prepared

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SPEC = importlib.util.spec_from_file_location("book", DOCS / "book.py")
book = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(book)

BUILT = {"_build", "generated"}
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if not BUILT & set(page.relative_to(DOCS).parts)]
LINKED = [*PAGES, *sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("examples/*/*.md"))]
FENCE = re.compile(r"^(<!-- not run: .+ -->\n)?```(?:\{code-cell\} )?(\w*)\n(.*?)^```", flags=re.M | re.S)
SNIPPETS = [
    page
    for page in (ROOT / "README.md", *PAGES)
    if any(match[2] in ("python", "sh") for match in FENCE.finditer(page.read_text()))
]
NAMES = {"ids": lambda page: page.relative_to(ROOT).as_posix()}

ROWS = {"train": 60, "validation": 16, "test": 48}
"""Of the small copies of the real tables that the snippets run on: they must run; their figures are looked at elsewhere."""
SEARCH = ["--search.heads", "linear", "--search.ridges", "1", "--search.powers", "1", "--search.dims", "16"]


def test_every_page_is_in_the_sidebar():
    named = [name for page in PAGES for name in book.listed(page)]
    generated = {f"generated/{name}" for name, _ in book._pages()}
    assert not [name for name in named if not (DOCS / f"{name}.md").exists() and name not in generated and "*" not in name]
    top = {page for page in book.unlisted() if "/" in page}
    assert not top, f"a page in a folder must be named by a toctree: {top}"


def test_pages_that_nothing_names_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "DOCS", tmp_path)
    (tmp_path / "index.md").write_text("# x\n\n```{toctree}\n:hidden:\n\nstart\nGuide <guides/one>\nguides/t*\n```\n")
    for name in ("start", "lost", "guides/one", "guides/two"):
        path = tmp_path / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("# x\n")
    assert book.listed(tmp_path / "index.md") == ["start", "guides/one", "guides/two"]
    assert book.unlisted() == ["lost"]


def slugs(text):
    """The anchors of a page: those that its headings have on GitHub and in the book."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    names = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line).strip() for line in re.findall(r"^#{1,4} +(.+)$", text, flags=re.M)]
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


def broken(page):
    """The relative links of a page that lead nowhere."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    lost = []
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]*))?\)", re.sub(r"`[^`\n]*`", "", text)):
        path = page.parent / target if target else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in slugs(path.read_text())):
            lost.append(f"{target}#{anchor}" if anchor else target)
    return lost


@pytest.mark.parametrize("page", LINKED, **NAMES)
def test_links_lead_somewhere(page):
    assert not broken(page)


def test_broken_links_are_seen(tmp_path):
    (tmp_path / "there.md").write_text("# A `title`: and more\n\n```sh\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#a-title-and-more) [b](gone.md) [c](there.md#no-heading) [d](#x) `[e](f.md)`\n# X\n[g](#x)\n")
    assert broken(page) == ["gone.md", "there.md#no-heading"]


def commands(text):
    """The `gramian` commands of a shell snippet, also under torchrun, each as its words."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["torchrun"]:
            words = words[words.index("-m") + 1 :]
        if words[:1] == ["gramian"]:
            yield words[1:]


def cheap(words):
    """A command with fewer epochs, a search of one setting, a small bench."""
    if words[0] == "bench":
        return ["bench", "--tasks", "gram", "--sizes", "16", "--modalities", "2", "--rounds", "1", *words[-2:]]
    if words[0] != "train":
        return words
    if "canonical" in words:
        return [word for i, word in enumerate(words) if "--search.heads" not in (word, words[i - 1])] + SEARCH
    kept = [word for i, word in enumerate(words) if "--recipe.epochs" not in (word, words[i - 1])]
    return [*kept, "--recipe.epochs", "1"]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The stamps with fewer rows and narrower features, and digits made up, in place of the real ones."""
    stamps = load("stamps")
    rows = [i for split, count in ROWS.items() for i in [i for i, one in enumerate(stamps.split) if one == split][:count]]
    part = stamps[rows]
    columns = {name: part.features(name)[:, :32] for name in part.modalities}
    present = {name: part.present[name] for name in part.modalities}
    Table.from_columns(columns, present=present, ids=part.ids, split=part.split).save(tmp_path / "stamps.safetensors")
    canonical = Aligner.canonical
    monkeypatch.setattr(Aligner, "canonical", lambda table, *, dim=8, **options: canonical(table, dim=min(dim, 8), **options))
    monkeypatch.setitem(EMBEDDED, "stamps", tmp_path / "stamps.safetensors")
    monkeypatch.setenv("GRAMIAN_CACHE", str(tmp_path / "cache"))
    columns = {name: torch.randn(len(rows), 8, generator=torch.Generator().manual_seed(0)) for name in digits.VIEWS}
    prepared("digits").parent.mkdir()
    Table.from_columns(columns, ids=[f"{i % 10}/{i}" for i in range(len(rows))], split=part.split).save(prepared("digits"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*pin_memory.*:UserWarning")
@pytest.mark.parametrize("page", SNIPPETS, **NAMES)
@pytest.mark.usefixtures("small", "rough_maps")
def test_snippets_run_in_order(page, tmp_path, monkeypatch, capsys):
    text = page.read_text()
    if "sentence_transformers" in text:
        pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    namespace: dict[str, object] = {}
    for skipped, language, code in FENCE.findall(text):
        if skipped:
            continue
        if language == "python":
            exec(compile(textwrap.dedent(code), str(page), "exec"), namespace)
        elif language == "sh":
            for words in commands(code):
                assert main(cheap(words)) == 0, (words, capsys.readouterr().err)
