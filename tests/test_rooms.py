"""The rooms of the house: arrows of imports run one way, no circles, no file that has grown without saying why."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gramian

SOURCE = Path(gramian.__file__).parent
LIMIT = 420
WHY_LONG = "Over 400 lines"
VERSION = ("gramian", "__version__")  # the one thing that rooms may take from the package's face

# A room may import from those to its left and from its own.
ROOMS = [
    "errors",
    "files",
    "tensors",
    "processes",
    "sheets",
    "papers",
    "memory",
    "factorisations",
    "geometry",
    "rows",
    "tokens",
    "bundle",
    "kernels",
    "scores",
    "losses",
    "ring",
    "distributed",
    "data",
    "canonical",
    "model",
    "embedding",
    "evaluation",
    "index",
    "training",
    "benchmark",
    "integrations",
    "cli",
]


def _module(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows(root: Path) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports, wherever in the file: in functions and for types alone as well."""
    paths = {_module(path, root): path for path in root.rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        targets = found.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                if node.level:
                    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                    module = ".".join([*parts, *([module] if module else [])])
                names = [f"{module}.{alias.name}" for alias in node.names if (module, alias.name) != VERSION]
            else:
                continue
            for target in names:
                while target and target not in paths:  # a name in a module: the module
                    target = target.rpartition(".")[0]
                if target and target != name:
                    targets.add(target)
    return found


ARROWS = arrows(SOURCE)


def _room(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    allowed = {*ROOMS[: ROOMS.index(room) + 1]}
    modules = [name for name in ARROWS if _room(name) == room]
    assert modules
    upward = {(name, target) for name in modules for target in ARROWS[name] if _room(target) not in allowed}
    assert not upward


def test_there_are_no_circles_not_even_inside_a_room():
    try:
        list(TopologicalSorter(ARROWS).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_every_room_is_in_the_order():
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__", "__main__", "__pycache__"} == set(ROOMS)


def test_scores_do_not_know_the_losses_and_metrics_do_not_know_the_scores():
    assert not {target for name in ARROWS if _room(name) == "scores" for target in ARROWS[name] if _room(target) == "losses"}
    assert not {target for target in ARROWS["gramian.evaluation.metrics"] if _room(target) == "scores"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_long_module_says_why_in_its_first_lines(path):
    text = path.read_text(encoding="utf-8")
    if len(text.splitlines()) > LIMIT:
        assert WHY_LONG in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.parametrize(
    "line",
    ["from gramian import losses", "import gramian.losses", "from gramian.losses import base", "from ..losses import Gram"],
)
def test_an_upward_arrow_is_seen_wherever_it_stands(tmp_path, line):
    package = tmp_path / "gramian"
    for room in ("kernels", "losses"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "losses" / "base.py").write_text("")
    (package / "kernels" / "tiles.py").write_text(f"def tile():\n    if True:\n        {line}\n")
    assert {_room(target) for target in arrows(package)["gramian.kernels.tiles"]} == {"losses"}
