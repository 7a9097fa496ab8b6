"""Memory that is used again: who owns it while a tensor lives, and that a step neither loses nor shares any."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from gramian import PMRL, Bundle, Gram
from gramian.memory import ALIGNED, POOL, SMALLEST, Pool, Scratch, split, stack

LIKE = torch.empty(0)
ROW = SMALLEST // 4  # float32 entries of the smallest tensor that a pool serves
NAMES = ("text", "image", "audio")


@pytest.fixture(autouse=True)
def emptied():
    gc.collect()
    POOL.clear()
    yield
    POOL.clear()


def columns(seed, n=640, d=512):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(n, d, generator=generator).requires_grad_() for name in NAMES}


def gradients(loss, seed):
    batch = columns(seed)
    return torch.autograd.grad(loss(Bundle.from_dict(batch)).total, [*batch.values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool])
def test_a_block_serves_again_when_its_last_tensor_is_gone(dtype):
    pool = Pool(2**26)
    first = pool.empty(LIKE.to(dtype), (8, ROW))
    part, where = first[3:], first.data_ptr()
    assert first.shape == (8, ROW)
    assert first.dtype == dtype
    assert first.is_contiguous()
    assert where % ALIGNED == 0
    del first
    assert pool.nbytes == 0  # a view of it is left
    del part
    assert pool.nbytes == 8 * ROW * dtype.itemsize + ALIGNED
    again = pool.empty(LIKE.to(dtype), (ROW, 8))
    assert again.data_ptr() == where
    assert pool.nbytes == 0


def test_living_tensors_share_nothing():
    pool = Pool(2**24)
    tensors = [pool.empty(LIKE, (ROW,)).fill_(i) for i in range(4)]
    del tensors[1]
    tensors.append(pool.empty(LIKE, (ROW,)).fill_(4))
    assert [sorted(set(tensor.tolist())) for tensor in tensors] == [[0], [2], [3], [4]]


def test_what_has_waited_longest_goes_first():
    pool = Pool(4 * (SMALLEST + ALIGNED))
    small = [pool.empty(LIKE, (ROW,)) for _ in range(4)]
    kept = {tensor.data_ptr() for tensor in small[2:]}
    while small:
        del small[0]
    large = pool.empty(LIKE, (2 * ROW - ALIGNED // 4,))
    del large
    assert pool.nbytes <= pool.limit
    again = [pool.empty(LIKE, (ROW,)) for _ in range(2)]
    assert {tensor.data_ptr() for tensor in again} == kept


def test_a_block_serves_nothing_much_smaller():
    pool = Pool(2**24)
    large = pool.empty(LIKE, (2 * ROW,))
    del large
    waiting = pool.nbytes
    small = pool.empty(LIKE, (ROW,))
    assert small.shape == (ROW,)
    assert pool.nbytes == waiting == 2 * SMALLEST + ALIGNED


@pytest.mark.parametrize("shape", [(ROW - 1,), (0,), (), (2**10, ROW)])
def test_small_and_huge_tensors_are_torchs_own(shape):
    pool = Pool(2**28)
    with FakeTensorMode() if len(shape) == 2 else torch.no_grad():  # 1 GiB that nobody should allocate
        tensor = pool.empty(torch.empty(0), shape)
    assert tensor.shape == shape
    del tensor
    assert pool.nbytes == 0


def test_other_devices_and_traced_tensors_have_their_own_memory():
    assert POOL.empty(torch.empty(0, device="meta"), (ROW,)).device.type == "meta"
    with FakeTensorMode() as mode:
        assert isinstance(POOL.empty(torch.empty(0), (ROW,)), type(mode.from_tensor(LIKE)))
    assert POOL.nbytes == 0


def test_threads_take_and_return_blocks_at_once():
    pool = Pool(2**23)

    def work(number):
        for turn in range(50):
            tensor = pool.empty(LIKE, (ROW + number % 3,)).fill_(100 * number + turn)
            low, high = torch.aminmax(tensor)
            assert low == high == 100 * number + turn
            del tensor
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(16)))
    assert 0 < pool.nbytes <= pool.limit


@pytest.mark.parametrize("loss", [Gram(), Gram(block_size=300), PMRL()], ids=["kept", "blocks", "pmrl"])
def test_a_step_takes_what_the_step_before_left(loss):
    held = []
    for seed in range(3):
        gradients(loss, seed)
        held.append(POOL.nbytes)
    assert held[0] > 640 * 512 * 4
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
    before = POOL.nbytes
    del total
    assert POOL.nbytes >= before + 2 * 640 * 640 * 4  # two products of every pair


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
        assert POOL.nbytes == 2 * (512 * 1024 * 4 + ALIGNED)


def test_stack_and_split_are_torchs_and_may_be_differentiated_twice():
    parts = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.equal(stack(parts), torch.stack(parts, 1))
    first, others = split(stack(parts), 1)
    assert torch.equal(first, torch.stack(parts[:1], 1))
    assert torch.equal(others, torch.stack(parts[1:], 1))

    def function(*columns):
        first, others = split(stack(columns), 1)
        return (first.pow(3) * others).sum()

    assert torch.autograd.gradcheck(function, parts)
    assert torch.autograd.gradgradcheck(function, parts)
