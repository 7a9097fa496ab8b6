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

SOURCE = Path(gramian.__file__).parent
MODULES = [module.name for module in pkgutil.walk_packages(gramian.__path__, "gramian.")]


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


def test_public_functions_of_tensors_give_shapes():
    from gramian import geometry, losses, scores
    from gramian.evaluation import metrics

    for module in (geometry, scores, metrics):
        for public in module.__all__:
            thing = getattr(module, public)
            if inspect.isfunction(thing):
                document = inspect.getdoc(thing)
                assert (
                    "(q," in document
                    or "(n" in document
                    or "(..." in document
                    or public in {"recall_at_k", "score_table"}
                    or "rank" in public
                )
    assert {losses.LOSSES[name].__name__ for name in losses.LOSSES} == set(losses.LOSSES)


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
