"""Run by torchrun in tests/test_distributed.py: losses over the items of several processes against those of one."""

import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from gramian import PMRL, Bundle, Gram, Pairwise
from gramian.distributed import Gathered, Ring, gather
from gramian.errors import InputError, TooSmallError
from gramian.losses import Centroid, Contrast, HyperGram, Symile, Triangle
from gramian.tokens import Tokens

torch.set_num_threads(1)
NAMES = ("text", "image", "audio")
N, D = 24, 6

LOSSES = {
    "Gram": lambda: Gram(),
    "Gram, each": lambda: Gram(score="cone", anchor="each"),
    "Gram, span": lambda: Gram(score="span", anchor="each", label_smoothing=0.0),
    "Pairwise": lambda: Pairwise(label_smoothing=0.1),
    "Pairwise, sigmoid": lambda: Pairwise(objective="sigmoid"),
    "Centroid": lambda: Centroid(),
    "Triangle": lambda: Triangle(block_size=5),
    "HyperGram": lambda: HyperGram(),
    "PMRL": lambda: PMRL(),
    "PMRL, signed": lambda: PMRL(signed=True, alignment_temperature=0.5),
    "Sum": lambda: Gram() + 0.5 * Pairwise(),
}
GATHERED_ALONE = {
    "Gram, hardest": lambda: Gram(negatives=3),
    "Gram, random": lambda: Gram(anchor="random"),
    "Symile": lambda: Symile(),
    "maxsim": lambda: Contrast("maxsim"),
}


def world(repeated):
    generator = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(N, 3, D, dtype=torch.float64, generator=generator), dim=-1)
    present = torch.rand(N, 3, generator=generator) > 0.3
    present[:, 0] |= ~present.any(1)
    tokens = torch.randn(N, 4, D, dtype=torch.float64, generator=generator)
    there = torch.rand(N, 4, generator=generator) > 0.3
    there[:, 0] = True
    ids = torch.randint(0, N // 2, (N,), generator=generator) if repeated else None
    return vectors.masked_fill(~present[..., None], 0), present, ids, tokens, there & present[:, 1:2]


def share(counts, rank, repeated, tokens):
    vectors, present, ids, values, there = world(repeated)
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    longest = 4 - (rank == 0 and tokens == "uneven" and not there[rows, 3].any())
    part = {"image": Tokens(values[rows, :longest].clone().requires_grad_(), there[rows, :longest])} if tokens else {}
    return Bundle(vectors[rows].clone().requires_grad_(), present[rows], NAMES, None if ids is None else ids[rows], part)


def value_and_gradients(loss, bundle):
    total = loss(bundle, generator=torch.Generator().manual_seed(7)).total
    leaves = [bundle.vectors, *(tokens.values for tokens in bundle.tokens.values()), *loss.parameters()]
    return total, torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def check(name, make, wrap, counts, repeated, tokens=False):
    rank, size = dist.get_rank(), dist.get_world_size()
    whole = share([N], 0, repeated, tokens)
    reference = make()
    # Gathered losses draw by the first process's seed.
    seed = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(7)))
    expected = reference(whole, generator=torch.Generator().manual_seed(seed)).total
    wanted = torch.autograd.grad(
        expected,
        [whole.vectors, *(part.values for part in whole.tokens.values()), *reference.parameters()],
        allow_unused=True,
        materialize_grads=True,
    )
    loss = wrap(make())
    bundle = share(counts, rank, repeated, tokens)
    total, grads = value_and_gradients(loss, bundle)
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-10, msg=lambda text: f"{name} {counts}: {text}")
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    inputs = 1 + len(bundle.tokens)
    for place, (grad, want) in enumerate(zip(grads, wanted, strict=True)):
        if place < inputs:  # data-parallel training averages over processes
            got, want = grad / size, want[rows][:, : grad.shape[1]]
        else:
            got = grad.clone()
            dist.all_reduce(got)
            got /= size
        rtol = 1e-9 if got.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(got, want, rtol=rtol, atol=1e-9, msg=lambda text: f"{name} {counts} {place}: {text}")  # noqa: B023


def refusals():
    rank = dist.get_rank()
    bundle = share([N // 4] * 4, 0, False, False)
    with pytest.raises(InputError, match="same modalities"):
        gather(bundle if rank else bundle.select("image", "text", "audio"))
    for wrap in (Gathered, Ring):
        with pytest.raises(TooSmallError, match=r"got [01]\."):
            wrap(Pairwise())(bundle[:1] if rank == 0 else bundle[:0])
    for refused in (Gram(negatives=2), Symile(), Gram(anchor="random")):
        with pytest.raises(InputError, match="Use Gathered"):
            Ring(refused)


def main():
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    size = dist.get_world_size()
    even, uneven = [N // size] * size, [N - 5, 5] if size == 2 else [7, 0, 16, 1]
    for counts in (even, uneven, [0] * (size - 1) + [N]):
        for name, make in LOSSES.items():
            check(name, make, Gathered, counts, counts is uneven)
            check(name, make, Ring, counts, counts is uneven)
        for name, make in GATHERED_ALONE.items():
            check(name, make, Gathered, counts, counts is uneven, tokens=name == "maxsim" and "uneven")
    refusals()
    dist.barrier()
    if dist.get_rank() == 0:
        print(f"all agree on {size}")
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
