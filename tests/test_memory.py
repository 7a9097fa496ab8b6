"""Memory that is used again: who owns it while a tensor lives, and that a step neither loses nor shares any."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from gramian import PMRL, Bundle, Gram
from gramian.factorisations import gram_schmidt, normalized, spectral
from gramian.memory import ALIGNED, ALLOCATOR, SMALLEST, CachingAllocator, Scratch, split, stack

LIKE = torch.empty(0)
ROW = SMALLEST // 4  # float32 entries of the smallest tensor that a block serves
NAMES = ("text", "image", "audio")


@pytest.fixture(autouse=True)
def emptied():
    gc.collect()
    ALLOCATOR.clear()
    yield
    ALLOCATOR.clear()


def columns(seed, n=700, d=512):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(n, d, generator=generator).requires_grad_() for name in NAMES}


def gradients(loss, seed):
    batch = columns(seed)
    return torch.autograd.grad(loss(Bundle.from_dict(batch)).total, [*batch.values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool])
def test_a_block_serves_again_when_its_last_tensor_is_gone(dtype):
    allocator = CachingAllocator(2**26)
    first = allocator.empty(LIKE.to(dtype), (8, ROW))
    part, where = first[3:], first.data_ptr()
    assert first.shape == (8, ROW)
    assert first.dtype == dtype
    assert first.is_contiguous()
    assert where % ALIGNED == 0
    del first
    assert allocator.nbytes == 0  # a view of it is left
    del part
    assert allocator.nbytes == 8 * ROW * dtype.itemsize + ALIGNED
    again = allocator.empty(LIKE.to(dtype), (ROW, 8))
    assert again.data_ptr() == where
    assert allocator.nbytes == 0


def test_living_tensors_share_nothing():
    allocator = CachingAllocator(2**24)
    tensors = [allocator.empty(LIKE, (ROW,)).fill_(i) for i in range(4)]
    del tensors[1]
    tensors.append(allocator.empty(LIKE, (ROW,)).fill_(4))
    assert [sorted(set(tensor.tolist())) for tensor in tensors] == [[0], [2], [3], [4]]


def test_what_has_waited_longest_goes_first():
    allocator = CachingAllocator(4 * (SMALLEST + ALIGNED))
    small = [allocator.empty(LIKE, (ROW,)) for _ in range(4)]
    kept = {tensor.data_ptr() for tensor in small[2:]}
    while small:
        del small[0]
    large = allocator.empty(LIKE, (2 * ROW - ALIGNED // 4,))
    del large
    assert allocator.nbytes <= allocator.limit
    again = [allocator.empty(LIKE, (ROW,)) for _ in range(2)]
    assert {tensor.data_ptr() for tensor in again} == kept


def test_a_block_serves_nothing_much_smaller():
    allocator = CachingAllocator(2**24)
    large = allocator.empty(LIKE, (2 * ROW,))
    del large
    waiting = allocator.nbytes
    small = allocator.empty(LIKE, (ROW,))
    assert small.shape == (ROW,)
    assert allocator.nbytes == waiting == 2 * SMALLEST + ALIGNED


@pytest.mark.parametrize("shape", [(ROW - 1,), (0,), (), (2, ROW)])
def test_small_and_huge_tensors_are_torchs_own(shape):
    allocator = CachingAllocator(2 * SMALLEST)
    waiting = allocator.empty(LIKE, (ROW,))
    del waiting
    tensor = allocator.empty(LIKE, shape)
    assert tensor.shape == shape
    del tensor
    assert allocator.nbytes == SMALLEST + ALIGNED


def test_where_no_memory_is_left_torch_is_asked_for_it(monkeypatch):
    def full(*_):
        raise MemoryError

    allocator = CachingAllocator(2**26)
    waiting = allocator.empty(LIKE, (ROW,))
    del waiting
    monkeypatch.setattr(np, "empty", full)
    assert allocator.empty(LIKE, (2 * ROW,)).shape == (2 * ROW,)
    assert allocator.nbytes == 0


def test_other_devices_and_traced_tensors_have_their_own_memory():
    assert ALLOCATOR.empty(torch.empty(0, device="meta"), (ROW,)).device.type == "meta"
    with FakeTensorMode() as mode:
        assert isinstance(ALLOCATOR.empty(torch.empty(0), (ROW,)), type(mode.from_tensor(LIKE)))
    assert ALLOCATOR.nbytes == 0


def test_threads_take_and_return_blocks_at_once():
    allocator = CachingAllocator(2**23)

    def work(number):
        for turn in range(50):
            tensor = allocator.empty(LIKE, (ROW + number % 3,)).fill_(100 * number + turn)
            low, high = torch.aminmax(tensor)
            assert low == high == 100 * number + turn
            del tensor
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(16)))
    assert 0 < allocator.nbytes <= allocator.limit


@pytest.mark.parametrize("loss", [Gram(), Gram(block_size=300), PMRL()], ids=["kept", "blocks", "pmrl"])
def test_a_step_takes_what_the_step_before_left(loss):
    held = []
    for seed in range(3):
        gradients(loss, seed)
        held.append(ALLOCATOR.nbytes)
    assert held[0] > 700 * 512 * 4
    assert held[1:] == held[:1] * 2


@pytest.mark.parametrize("loss", [Gram(), Gram(block_size=300), PMRL()], ids=["kept", "blocks", "pmrl"])
def test_gradients_that_are_held_stay_as_they_are(loss):
    first = gradients(loss, 0)
    copies = [grad.clone() for grad in first]
    gradients(loss, 1)
    assert all(torch.equal(grad, copy) for grad, copy in zip(first, copies, strict=True))
    for grad, again in zip(first, gradients(loss, 0), strict=True):
        torch.testing.assert_close(again, grad)


def test_a_graph_without_a_backward_pass_returns_its_memory():
    total = Gram()(Bundle.from_dict(columns(0))).total
    before = ALLOCATOR.nbytes
    del total
    assert ALLOCATOR.nbytes >= before + 2 * 700 * 700 * 4  # two products of every pair


def test_scratch_of_a_pass_serves_the_next():
    for _ in range(2):
        scratch = Scratch(LIKE)
        scratch.start(512, 1024)
        first, second = scratch.new(), scratch.new()
        assert first.shape == (512, 1024)
        assert first.data_ptr() != second.data_ptr()
        scratch.start(256, 1024)
        assert scratch.new().data_ptr() == first.data_ptr()
        del scratch, first, second
        assert ALLOCATOR.nbytes == 2 * (512 * 1024 * 4 + ALIGNED)


def units(z):
    return normalized(z)[0]


def basis(z):
    return gram_schmidt(z, torch.ones(z.shape[:2], dtype=torch.bool))[0]


def singular(z):
    return spectral(z, scaled=False)[0]


def leading(z):
    return spectral(z, scaled=True)[1]


def parts(z):
    first, others = split(stack(z.unbind(1)), 1)
    return first * others


FUNCTIONS = [units, basis, singular, leading, parts]
SIZES = [3, 700]  # of torch's own memory, and of blocks


def tuples(n, d=512):
    return F.normalize(torch.randn(n, 3, d, generator=torch.Generator().manual_seed(n)), dim=-1).requires_grad_()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_of_several_at_once(function, n):
    z = tuples(n)
    out = function(z)
    weights = torch.stack([torch.ones_like(out), out.detach()])
    both = torch.autograd.grad(out, z, weights, is_grads_batched=True, retain_graph=True)[0]
    for weight, slope in zip(weights, both, strict=True):
        torch.testing.assert_close(slope, torch.autograd.grad(out, z, weight, retain_graph=True)[0])


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_backward_pass_inside_autocast_is_that_outside(function, n):
    z = tuples(n)
    out = function(z)
    plain = torch.autograd.grad(out.square().sum(), z, retain_graph=True)[0]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(torch.autograd.grad(out.square().sum(), z)[0], plain)


@pytest.mark.parametrize("n", SIZES)
def test_what_a_block_holds_may_be_changed_like_any_tensor(n):
    vectors = units(tuples(n).detach())
    factor = torch.tensor(2.0, requires_grad=True)
    vectors.mul_(factor).sum().backward()
    assert factor.grad is not None
    assert not ALLOCATOR.empty(LIKE, (n, 3, 512))._is_view()


def test_stack_and_split_are_torchs_and_may_be_differentiated_twice():
    columns = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.equal(stack(columns), torch.stack(columns, 1))
    first, others = split(stack(columns), 1)
    assert torch.equal(first, torch.stack(columns[:1], 1))
    assert torch.equal(others, torch.stack(columns[1:], 1))

    def function(*columns):
        first, others = split(stack(columns), 1)
        return (first.pow(3) * others).sum()

    assert torch.autograd.gradcheck(function, columns)
    assert torch.autograd.gradgradcheck(function, columns)
