"""Processes forked from one that has imported the library, and what they run: losses, moments, fit and embedding.

A process of its own for each would import torch, which takes longer than most of these tests.
"""

import io
import itertools
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import traceback
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from gramian import PMRL, Bundle, Gram, Pairwise
from gramian.canonical import Moments
from gramian.canonical.features import Kernel
from gramian.data import Cells, Table
from gramian.distributed import Gathered, Ring, average_gradients, gather
from gramian.embedding import embed_table
from gramian.errors import InputError, TooSmallError
from gramian.losses import Centroid, Contrast, HyperGram, Matching, Symile, Triangle
from gramian.model import Aligner, Custom, Towers
from gramian.tokens import Tokens
from gramian.training import Recipe, Search, fit, fit_canonical
from gramian.training.caching import cached_backward
from gramian.training.checkpoints import RunFolder
from synthetic import world as small_world

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["gramian.cli", "torch.distributed.fsdp", "accelerate", "datasets", "peft", "transformers.modeling_utils"]
)


def start(function, *arguments, place=()):
    """Run `function(*arguments)` in a process of its own, with more in its environment: the process, and where it answers."""
    answer, ours = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_run, args=(ours, dict(place), function, arguments))
    process.start()
    ours.close()
    return process, answer


def _run(answer, place, function, arguments):
    os.environ.update(place)
    try:
        value = function(*arguments)
        if dist.is_initialized():
            dist.barrier()
        answer.send(value)
    except BaseException:
        answer.send(traceback.format_exc())
        os._exit(1)
    os._exit(0)  # gloo's threads may abort a process that tears itself down while others still do


def outcome(process, answer):
    """The exit code, and the value of the function; with exit code 1 the traceback."""
    process.join(timeout=300)
    value = "still running after five minutes" if process.is_alive() else None
    process.kill()
    process.join()
    with suppress(EOFError):
        value = answer.recv()
    return process.exitcode, value


def together(function, *arguments, processes):
    """The outcomes of processes connected as torchrun does, without a launcher that watches over them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = [place | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return [outcome(*started) for started in [start(function, *arguments, place=rank) for rank in ranks]]


def printed(words, script):
    """The exit code of a script, and what it prints."""
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        sys.argv, sys.path[0:0], code = [str(script), *words], [str(script.parent)], 0
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), error.getvalue()


def alone(function, *arguments):
    """The value of a function that must end well in a process of its own."""
    return values([outcome(*start(function, *arguments))])[0]


def values(outcomes):
    """What functions that must end well gave."""
    for code, value in outcomes:
        assert code == 0, value
    return [value for _, value in outcomes]


NAMES = ("text", "image", "audio")
N, D = 24, 6

LOSSES = {
    "Gram": lambda: Gram(),
    "Gram, each": lambda: Gram(score="cone", anchor="each"),
    "Gram, random": lambda: Gram(anchor="random"),
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
    total = loss(bundle, generator=torch.Generator().manual_seed(7 + dist.get_rank())).total
    leaves = [bundle.vectors, *(tokens.values for tokens in bundle.tokens.values()), *loss.parameters()]
    return total, torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def check(name, make, wrap, counts, repeated, tokens=False):
    rank, size = dist.get_rank(), dist.get_world_size()
    whole = share([N], 0, repeated, tokens)
    reference = make()
    # Draws follow the first process's seed.
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
    for refused in (Gram(negatives=2), Symile()):
        with pytest.raises(InputError, match="Use Gathered"):
            Ring(refused)


def moments(counts):
    rank = dist.get_rank()
    vectors, present, *_ = world(False)
    columns = {name: vectors[:, i] + 1e4 for i, name in enumerate(NAMES)}
    masks = {name: present[:, i] for i, name in enumerate(NAMES)}
    rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    own = Moments(dict.fromkeys(NAMES, D))
    own.add(
        {name: column[rows] for name, column in columns.items()}, present={name: mask[rows] for name, mask in masks.items()}
    )
    got, wanted = own.over_processes(), Moments.of(columns, present=masks)
    assert got.rows == N
    torch.testing.assert_close(got.counts, wanted.counts)
    for name in NAMES:
        torch.testing.assert_close(got.mean(name), wanted.mean(name), rtol=1e-12, atol=0)
        for other in NAMES:
            torch.testing.assert_close(got.covariance(name, other), wanted.covariance(name, other), rtol=1e-9, atol=1e-11)
    with pytest.raises(InputError, match="the same parts in each"):
        (Moments({"text": 1}) if rank else Moments({"text": 2})).over_processes()


class Encoder(nn.Module):
    """A tower a modality, and dropout that a second pass has to repeat."""

    def __init__(self):
        super().__init__()
        self.towers = nn.ModuleList(nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, D)) for _ in NAMES)

    def forward(self, part):
        vectors, present = part
        columns = {name: tower(vectors[:, i]) for i, (name, tower) in enumerate(zip(NAMES, self.towers, strict=True))}
        return Bundle.from_dict(columns, present={name: present[:, i] for i, name in enumerate(NAMES)}, check=False)


def sharded(wrap, cached, mesh):
    """Parameters sharded by FSDP2, the loss outside of it, against one process."""
    rank, size = dist.get_rank(), dist.get_world_size()
    vectors, present, *_ = world(False)
    vectors = vectors.float()
    torch.manual_seed(0)
    encoder, loss = Encoder(), Gram(score="span", anchor="each")
    reference = loss(encoder((vectors, present))).total
    wanted = torch.autograd.grad(reference, [*encoder.parameters(), *loss.parameters()])
    for tower in encoder.towers:
        fully_shard(tower, mesh=mesh)
    fully_shard(encoder, mesh=mesh)
    rows = torch.tensor_split(torch.arange(N), size)[rank]
    own = (vectors[rows], present[rows])
    spread = wrap(loss)
    if cached:

        @contextmanager
        def no_sync():
            encoder.set_requires_gradient_sync(False)
            yield
            encoder.set_requires_gradient_sync(True)

        parts = list(zip(own[0].split(3), own[1].split(3), strict=True))
        total = cached_backward(encoder, parts, spread, no_sync=no_sync).total
    else:
        total = spread(encoder(own)).total
        total.backward()
    average_gradients(loss.parameters())
    torch.testing.assert_close(total.detach(), reference.detach(), rtol=1e-5, atol=1e-6)
    for parameter, want in zip([*encoder.parameters(), *loss.parameters()], wanted, strict=True):
        grad = parameter.grad
        grad = grad.full_tensor() if isinstance(grad, DTensor) else grad
        torch.testing.assert_close(grad, want, rtol=1e-4, atol=1e-6)


def losses():
    """Value and gradient of every loss over the items of several processes, against one process with all of them."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    size = dist.get_world_size()
    even, uneven = [N // size] * size, [N - 5, 5] if size == 2 else [7, 0, 16, 1]
    for counts in (even, uneven, [0] * (size - 1) + [N]):
        for name, make in LOSSES.items():
            check(name, make, Gathered, counts, counts is uneven)
            check(name, make, Ring, counts, counts is uneven)
        moments(counts)
        for name, make in GATHERED_ALONE.items():
            check(name, make, Gathered, counts, counts is uneven, tokens=name == "maxsim" and "uneven")
    if torch.__version__ >= "2.7":  # fully_shard wants an accelerator's streams before
        mesh = init_device_mesh("cpu", (size,))
        for wrap, cached in itertools.product((Gathered, Ring), (False, True)):
            sharded(wrap, cached, mesh)
    refusals()


def solving():
    """The closed form's choice and weights, its kernel's landmarks fewer than the rows."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    table = small_world(90, missing=0.2)
    search = Search(kernels=(Kernel(power=2, landmarks=20),), ridges=(0.1, 1.0), powers=(1.0,), dims=(4,))
    aligner, choice = fit_canonical(table.part("train"), table.part("validation"), search=search, progress=False)
    return [record["validation/mrr"] for record in choice.records], aligner.embed(table.part("test").has_any()).vectors.tolist()


def training(output, options):
    """`fit` on a small world; the first process writes the weights and the history to end.pt."""
    options = dict(options)
    stop = options.pop("stop", None)
    resume = options.pop("resume", False)
    matching = options.pop("matching", False)
    train, validation = (small_world(90, missing=0.2).part(split) for split in ("train", "validation"))
    aligner = Aligner.for_table(train, dim=8, seed=1, matcher={"layers": 1} if matching else None)
    loss = Gram(score="cone", anchor="each") + Pairwise()
    if matching:
        loss = loss + 0.1 * Matching(aligner.matcher)
    if stop is not None:
        log = RunFolder.checkpoint

        def checkpoint(folder, history, best):
            log(folder, history, best)
            if len(history.records) == stop:
                folder.accelerator.wait_for_everyone()
                os._exit(0)

        RunFolder.checkpoint = checkpoint
    recipe = Recipe(epochs=4, batch_size=21, checkpoint_every=1, **options)
    run = Path(output) / "run"
    history = fit(aligner, loss, train, validation, recipe=recipe, output=run, resume=resume, progress=False, cpu=True)
    if not dist.is_initialized() or dist.get_rank() == 0:
        torch.save({"weights": aligner.state_dict(), "records": history.records}, Path(output) / "end.pt")


def embedding(output, victim):
    """Embed 20 items; the process `victim` kills itself at the eleventh. What was written, and how many cells were read."""
    cells = []

    def read(cell):
        cells.append(cell)
        if dist.get_rank() == victim and cell > 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([cell])

    torch.manual_seed(0)
    towers = Towers({"sensor": Custom(nn.Linear(1, 2), 2, read=read)})
    table = Table.from_columns({"sensor": Cells([float(i) for i in range(20)])})
    return tuple(embed_table(towers, table, output, shard_size=2, batch_size=1, progress=False)), len(cells)
