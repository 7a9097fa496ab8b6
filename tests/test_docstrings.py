"""What a public docstring owes: `Args:` for options, `Returns:` for a value, `Raises:` for an error that it raises."""

import ast
from pathlib import Path

import pytest

import gramian

SOURCE = Path(gramian.__file__).parent
CHECKS = {"check_choice", "require", "wrong_choice"}  # functions that raise an InputError for their caller
CONSTRUCTORS = ("__init__", "__post_init__")


def _public(path: Path) -> list[tuple[str, ast.FunctionDef | ast.ClassDef, str]]:
    """(name, node, docstring) of the functions, classes and methods that `__all__` makes public."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            names = set(ast.literal_eval(node.value))
    public = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name not in names:
            continue
        public.append((node.name, node, ast.get_docstring(node) or ""))
        if isinstance(node, ast.ClassDef):
            public += [
                (f"{node.name}.{method.name}", method, ast.get_docstring(method) or "")
                for method in node.body
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
            ]
    return public


def _walk(node: ast.AST) -> list[ast.AST]:
    """The nodes of a function's own body, without those of functions inside it."""
    nodes = []
    for child in ast.iter_child_nodes(node):
        nodes.append(child)
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            nodes += _walk(child)
    return nodes


def _raises(function: ast.FunctionDef) -> bool:
    """Whether it raises an error of ours, itself or by a check; not one that it catches or that marks what is abstract."""
    for node in _walk(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            if ast.unparse(node.exc).partition("(")[0] not in ("NotImplementedError", "AttributeError", "error"):
                return True
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in CHECKS:
            return True
    return False


def debts(path: Path) -> list[str]:
    """What the public docstrings of a file leave out."""
    owed = []
    for name, node, text in _public(path):
        if isinstance(node, ast.ClassDef):
            makers = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name in CONSTRUCTORS]
            if any(map(_raises, makers)) and "Raises:" not in text:
                owed.append(f"{name}: Raises")
            continue
        if not text:  # the documented method of a parent
            continue
        if _raises(node) and "Raises:" not in text:
            owed.append(f"{name}: Raises")
        value = node.returns is not None and ast.unparse(node.returns) not in ("None", "Self", "Iterator[None]")
        if "Args:" in text and value and not any(section in text for section in ("Returns:", "Yields:")):
            owed.append(f"{name}: Returns")
    return owed


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_public_docstrings_owe_nothing(path):
    assert not debts(path)


def test_debts_are_seen(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        '''__all__ = ["Box", "size"]
class Box:
    """A box.

    Args:
        side: of it.
    """
    def __init__(self, side):
        check_choice("side", side, [1])
    def volume(self) -> float:
        """Its volume."""
        raise InputError("none")
def size(box) -> int:
    """How large it is.

    Args:
        box: one.
    """
    return 1
def _hidden():
    raise InputError("nobody sees it")
'''
    )
    assert debts(path) == ["Box: Raises", "Box.volume: Raises", "size: Returns"]
