import gc
import os
import socket
from functools import partial

import pytest

# Read when the libraries are first imported, here and in the processes that tests start.
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small batched factorisations are many times slower across threads

import torch
from hypothesis import given, settings
from hypothesis.strategies import none

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read where a kernel is defined, Triton's own included

# In CI every run draws the same examples, so that a red one can be repeated; HYPOTHESIS_PROFILE=default draws anew.
settings.register_profile("ci", max_examples=10, derandomize=True, deadline=None, database=None, print_blob=True)
settings.register_profile("few", settings.get_profile("ci"), max_examples=5)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_finish():
    """What the libraries have made by now stays, and is not looked through again each time the collector runs."""
    given(none())(
        lambda _: None
    )()  # hypothesis asks the collector who holds its generator, once, and what is frozen is not named
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()


@pytest.fixture
def rough_maps(monkeypatch):
    """t-SNE by a quarter of its steps, for tests that only look whether the maps are drawn."""
    manifold = pytest.importorskip("sklearn.manifold")
    monkeypatch.setattr(manifold, "TSNE", partial(manifold.TSNE, max_iter=250))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def on_its_own(monkeypatch):
    """No test depends on those before it by what they drew, nor on other machines, which cannot be found."""
    torch.manual_seed(0)
    look_up = socket.getaddrinfo

    def local(host, *arguments, **options):
        assert host in {None, "", "localhost", "127.0.0.1", "::1", socket.gethostname()}, f"a test asked for {host}"
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", local)
