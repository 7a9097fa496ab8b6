"""Sphinx extension of the book: pages made from the code, links out of docs/, docstrings in Markdown's backticks.

What is generated lies in docs/generated/ and is no part of the repository: a page per public room (`API`), the help of every
command, and the pages at the root of the repository and of the examples.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
GENERATED = DOCS / "generated"

ROOMS = {
    "gramian.bundle": "The value that flows: items × modalities, with a mask.",
    "gramian.tokens": "Several vectors per item in one modality.",
    "gramian.geometry": "One tuple at a time: Gram matrix, volume, singular values.",
    "gramian.scores": "Scores rank: queries × items → (q, n), higher is better.",
    "gramian.losses": "Losses train: Bundle → a scalar and its named parts.",
    "gramian.canonical": "Alignment in closed form.",
    "gramian.data": "Tables of features and of raw cells.",
    "gramian.model": "Towers, heads and the Aligner.",
    "gramian.training": "Training, from Python.",
    "gramian.evaluation": "Ranks, intervals, directions, diagnostics.",
    "gramian.embedding": "Tables of any size to vectors, in a file or in shards.",
    "gramian.distributed": "Losses over the items of several processes.",
    "gramian.errors": "What bad input raises.",
}
"""Public rooms in the order in which one meets them; rooms that are not named here follow in alphabetical order."""

PRIVATE = {"benchmark", "cli", "factorisations", "files", "kernels", "papers", "processes", "ring", "rows", "sheets"}
"""Rooms that a user does not call: behind the command line and the other rooms."""

TOCTREE = re.compile(r"^(`{3,}|:{3,})\{toctree\}\n(.*?)^\1", flags=re.M | re.S)


def listed(page: Path) -> list[str]:
    """The documents that the toctrees of a page name, from docs/ and without an ending; patterns are resolved.

    >>> "start" in listed(DOCS / "index.md")
    True
    """
    names: list[str] = []
    for match in TOCTREE.finditer(page.read_text(encoding="utf-8")):
        for line in match[2].splitlines():
            entry = re.sub(r"^.*<(.+)>$", r"\1", line.strip())
            if not entry or entry.startswith(":"):
                continue
            path = posixpath.normpath(posixpath.join(page.parent.relative_to(DOCS).as_posix(), entry))
            path = entry.removeprefix("/") if entry.startswith("/") else path
            names += sorted(_name(one) for one in DOCS.glob(f"{path}.md")) if "*" in path else [path]
    return names


def unlisted() -> list[str]:
    """Pages of docs/ that no toctree of another page names; the sidebar has them at the end of the guides."""
    pages = [page for page in sorted(DOCS.rglob("*.md")) if not {"_build", "generated"} & set(page.relative_to(DOCS).parts)]
    named = {name for page in pages for name in listed(page)}
    return [name for name in map(_name, pages) if name not in named and name != "index"]


def _name(page: Path) -> str:
    return page.relative_to(DOCS).with_suffix("").as_posix()


def rooms() -> dict[str, str]:
    """Public room → what it is, in a line."""
    source = ROOT / "src" / "gramian"
    names = {path.stem for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    names = {f"gramian.{name}" for name in names - PRIVATE if not name.startswith("_")}
    integrations = {f"gramian.integrations.{path.stem}" for path in (source / "integrations").glob("[!_]*.py")}
    found = sorted(names - {"gramian.integrations"} - ROOMS.keys()) + sorted(integrations)
    return ROOMS | {name: _summary(name) for name in found}


def _summary(room: str) -> str:
    path = ROOT / "src" / Path(*room.split("."))
    text = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].strip()


def write() -> None:
    """Write docs/generated/; a page that has not changed keeps its time, so that Sphinx does not read it again."""
    pages = dict(_pages())
    for name, text in pages.items():
        path = GENERATED / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in GENERATED.rglob("*.md"):
        if path.relative_to(GENERATED).with_suffix("").as_posix() not in pages:
            path.unlink()


def _pages() -> Iterator[tuple[str, str]]:
    """Name below docs/generated/, and text."""
    for order, (room, about) in enumerate(rooms().items()):
        yield f"api/{order:02d}-{room}", f"# {room}\n\n{about}\n\n```{{eval-rst}}\n.. automodule:: {room}\n```\n"
    yield "commands", _commands()
    for path in [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *ROOT.glob("examples/*/README.md")]:
        yield outer(path), _moved(path.read_text(encoding="utf-8"), path, GENERATED / f"{outer(path)}.md")


def outer(path: Path) -> str:
    """The page below docs/generated/ that shows a Markdown file from outside of docs/."""
    return f"examples/{path.parent.name}" if path.name == "README.md" else path.stem.lower()


def _commands() -> str:
    """The help of every command, and the options of every loss."""
    from gramian.cli import COMMANDS, PAGE
    from gramian.cli.parsing import help_of
    from gramian.losses import LOSSES

    lines = "\n".join(f"  {name:<10}{command.help}" for name, command in COMMANDS.items())
    parts = ["# Commands", "Made from the command line itself: `gramian COMMAND --help` prints the same."]
    parts += [f"```text\n{PAGE.format(commands=lines)}```"]
    for name, command in COMMANDS.items():
        parts += [
            f"## gramian {name}",
            f"{command.help[0].upper()}{command.help[1:]}.",
            f"```text\n{help_of(name, command)}```",
        ]
    parts += ["## Losses on the command line", "`--loss NAME` chooses one, `--loss.OPTION VALUE` sets its options."]
    for loss in LOSSES:
        options = help_of("train", COMMANDS["train"], ["--loss", loss]).partition(f"options of {loss}:\n")[2]
        parts += [f"### {loss}", f"```text\n{options or '  none'}```"]
    return "\n\n".join(parts) + "\n"


def _moved(text: str, old: Path, new: Path) -> str:
    """Markdown whose relative links lead to the same files from another place."""

    def moved(match: re.Match[str]) -> str:
        target, hash_, anchor = match[1].partition("#")
        if not target:
            return match[0]
        path = (old.parent / target).resolve()
        if path.suffix == ".md" and path.is_relative_to(DOCS):
            return f"](/{_name(path)}.md{hash_}{anchor})"
        page = _page_of(path)
        return f"]({page}{hash_}{anchor})" if page else f"]({posixpath.relpath(path, new.parent)}{hash_}{anchor})"

    return re.sub(r"\]\((?!https?:|mailto:)([^)\s]+)\)", moved, text)


def _page_of(path: Path) -> str | None:
    """Where the book has a Markdown file, or a folder of an example, from outside of docs/."""
    if path.is_dir() and path.parent == ROOT / "examples":
        path /= "README.md"
    if path == ROOT / "README.md":
        return "/index.md"
    if path.suffix == ".md" and path.exists() and not path.is_relative_to(DOCS):
        return f"/generated/{outer(path)}.md"
    return None


def _source_read(_app: Any, name: str, source: list[str]) -> None:
    page = DOCS / f"{name}.md"
    if name == "guides/index":
        source[0] = source[0].replace("moving\n```", "moving\n" + "".join(f"/{one}\n" for one in unlisted()) + "```")
    if not name.startswith("generated/"):
        source[0] = re.sub(
            r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)",
            lambda m: f"]({target}{m[2] or ''})" if (target := _page_of((page.parent / m[1]).resolve())) else m[0],
            source[0],
        )


COLON = "\ue000"
"""Stands for a colon while napoleon looks at an attribute, where it takes what comes before a colon for a type."""


def _docstring(_app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings name code in single backticks and draw tables as Markdown does, and write |x| for a length."""
    if what in ("attribute", "data", "property"):
        lines[:] = [line.replace(":", COLON) for line in lines]
    if what in ("attribute", "data"):
        lines += ["", ":meta hide-value:"]
    text: list[str] = []
    for line in lines:
        if line.startswith("|") and line.endswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not text or not text[-1].startswith("     - "):
                text += ["", ".. list-table::", "   :header-rows: 1", ""]
            if not set("".join(cells)) <= set(":- "):
                text += [f"   {'*' if not i else ' '} - {cell}" for i, cell in enumerate(cells)]
        else:
            text.append(re.sub(r"(`[^`]*`)(\w?)|\|", lambda m: f"{m[1]}\\ {m[2]}" if m[2] else m[1] or r"\|", line))
    lines[:] = text


def _colons(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = [line.replace(COLON, ":") for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", _source_read)
    app.connect("autodoc-process-docstring", _docstring, priority=400)  # napoleon has 500
    app.connect("autodoc-process-docstring", _colons, priority=600)
    write()
    return {"parallel_read_safe": True}
