import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # small batched factorisations are many times slower across threads

# In CI every run draws the same examples, so that a red one can be repeated; HYPOTHESIS_PROFILE=default draws anew.
settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
