import pytest
import torch

torch.set_num_threads(1)  # small batched factorisations are many times slower across threads


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
