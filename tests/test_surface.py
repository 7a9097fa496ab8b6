"""What a user sees first: imports without extras, no effects, a docstring for every public name."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gramian

ROOT = Path(__file__).parents[1]
SOURCE = Path(gramian.__file__).parent
MODULES = [module.name for module in pkgutil.walk_packages(gramian.__path__, "gramian.")]


def test_no_script_hides_a_module_of_python():
    scripts = [path for folder in (".ci", "benchmarks", "docs", "examples", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert len(scripts) > 100
    assert not {path.stem for path in scripts} & (sys.stdlib_module_names | {"gramian", "torch", "numpy"})


def test_core_imports_without_extras_and_without_effects():
    script = """
import sys, logging
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"accelerate", "datasets", "matplotlib", "sklearn", "transformers", "pyarrow", "scipy", "PIL"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
before = torch.random.get_rng_state(), list(logging.getLogger().handlers), torch.get_num_threads()
import gramian, gramian.cli, gramian.training, gramian.data, gramian.evaluation.plots
assert torch.equal(before[0], torch.random.get_rng_state())
assert before[1:] == (list(logging.getLogger().handlers), torch.get_num_threads())
assert not torch.cuda.is_initialized()
print("clean")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "clean\n", done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_public_names_exist_and_have_docstrings(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", []):
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{public}"
            if inspect.isclass(thing) and thing.__module__ == name:
                for method, value in vars(thing).items():
                    if not method.startswith("_") and inspect.isfunction(value):
                        assert inspect.getdoc(getattr(thing, method)), f"{name}.{public}.{method}"


def _without_shape(annotation: ast.AST) -> list[str]:
    """The tensors of an annotation whose shape is not named by the letters of the library, as in `Float[Tensor, "n m d"]`."""
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) in ("Bool", "Float", "Int"):
        assert isinstance(annotation.slice, ast.Tuple), ast.unparse(annotation)
        array, shape = annotation.slice.elts
        named = ast.unparse(array) == "Tensor" and set(ast.literal_eval(shape).split()) <= LETTERS
        return [] if named else [ast.unparse(annotation)]
    if isinstance(annotation, ast.Name) and annotation.id == "Tensor":
        return ["Tensor"]
    return [one for child in ast.iter_child_nodes(annotation) for one in _without_shape(child)]


LETTERS = {"...", *"nqmdtk", "p", "b", "c"}
"""n items, q queries, m modalities, d dimensions, t tokens, k cut-off; p other items; (b, c) a tile of the table."""

SHAPED = ["geometry.py", "bundle.py", "evaluation/metrics.py", "losses/functional.py", "losses/matching.py"]


def _shapeless(path: Path) -> list[str]:
    """The public functions and methods of a file with a tensor in the signature whose shape does not stand there."""
    named = []
    body = ast.parse(path.read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    methods = [method for one in classes for method in one.body]
    for node in [*body, *methods]:
        if not isinstance(node, ast.FunctionDef) or (node.name.startswith("_") and not node.name.startswith("__")):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        annotations = [node.returns, *(argument.annotation for argument in arguments)]
        if node.name != "__init__" and any(_without_shape(annotation) for annotation in annotations if annotation):
            named.append(node.name)
    return named


@pytest.mark.parametrize("file", [*SHAPED, *(f"scores/{path.name}" for path in sorted((SOURCE / "scores").glob("*.py")))])
def test_public_functions_of_tensors_name_shapes(file):
    assert not _shapeless(SOURCE / file)


def test_tensors_without_shapes_are_seen(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        """
def good(x: Float[Tensor, "... d"], ids: Int[Tensor, " n"] | None = None, *, tau: float = 1.0) -> Bool[Tensor, ""]: ...
def bare(x: Tensor) -> Float[Tensor, " n"]: ...
def union(x: list[Tensor | None]) -> None: ...
def letters(x: Float[Tensor, "n width"]) -> None: ...
def _private(x: Tensor) -> Tensor: ...
class Box:
    def method(self) -> Tensor: ...
"""
    )
    assert _shapeless(path) == ["bare", "union", "letters", "method"]


def test_losses_are_named_after_their_classes():
    from gramian import losses

    assert {loss.__name__ for loss in losses.LOSSES.values()} == set(losses.LOSSES)


def test_version_is_that_of_the_metadata():
    from importlib.metadata import version

    assert gramian.__version__ == version("gramian")


def test_the_names_of_the_package_come_when_they_are_asked_for():
    assert set(gramian.__all__) <= set(dir(gramian))
    for name in gramian.__all__:
        assert getattr(gramian, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = gramian.lod
    script = "import sys, gramian; print(sorted({name.split('.')[1] for name in sys.modules if name.startswith('gramian.')}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"model", "training", "evaluation", "data"} & set(ast.literal_eval(done.stdout))
