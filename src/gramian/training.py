"""`fit`: one visible loop on accelerate, with early choice on the validation split, checkpoints and exact resume."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.caching import cached_backward
from gramian.data.tables import Table
from gramian.distributed import Gathered, Ring
from gramian.errors import InputError, TooSmallError, check_choice, first_line, need, some
from gramian.evaluation import single_directions
from gramian.files import write_text
from gramian.losses.base import Loss, LossOutput, Temperature
from gramian.metrics import Ranks, mean_reciprocal_rank, recall_at_k
from gramian.model.aligner import Aligner
from gramian.model.batch import Batch, Broken, Rows, loader
from gramian.model.towers import Tower

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["History", "Recipe", "fit", "twins"]

logger = logging.getLogger("gramian")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training items.
        batch_size: items that are contrasted with each other, over all processes; the whole table where it is smaller. The
            incomplete last batch of an epoch is left out.
        micro_batch: items that a process encodes at a time, with the gradient cached (see `gramian.caching`); all by default.
        accumulate: batches a step of the optimiser: their gradients are averaged. Items of different batches are not
            contrasted.
        ring: whether processes pass their items round in place of gathering all (see `gramian.distributed.Ring`).
        learning_rate: peak of AdamW's rate, reached by a linear warm-up and left by a cosine to 0. A tower may have its own.
        weight_decay: on weight matrices alone; never on biases or temperatures.
        warmup: share of the steps spent warming up.
        max_gradient_norm: gradients are scaled down to this length.
        precision: "no" for float32, "bf16" or "fp16" for mixed precision.
        seed: of the batches and of dropout; one seed gives one result on the CPU. The heads' first weights have a seed of
            their own, in `Aligner.for_table`.
        evaluate_every: epochs between two looks at the validation split.
        patience: stop after this many looks without a better one; None never stops early.
        checkpoint_every: epochs between checkpoints, where there is a folder to write to.
        workers: processes that decode raw media ahead of the model, in each process that trains; 0 decodes in between steps.
            The result does not hang on it.
    """

    epochs: int = 40
    batch_size: int = 128
    micro_batch: int | None = None
    accumulate: int = 1
    ring: bool = False
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup: float = 0.1
    max_gradient_norm: float = 1.0
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    evaluate_every: int = 2
    patience: int | None = None
    checkpoint_every: int = 10
    workers: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "evaluate_every", "checkpoint_every", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InputError(f"`micro_batch` must be at least 1 or None; got {self.micro_batch}.")
        if self.batch_size < 2:
            raise InputError(
                f"`batch_size` must be at least 2, for there is nothing to contrast one item with; got {self.batch_size}."
            )
        for name in ("learning_rate", "max_gradient_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"`{name}` must be positive; got {getattr(self, name)}.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"`seed` must lie in [0, 2³²); got {self.seed}.")
        if not 0 <= self.warmup < 1:
            raise InputError(f"`warmup` must lie in [0, 1); got {self.warmup}.")
        if self.workers < 0:
            raise InputError(f"`workers` must not be negative; got {self.workers}.")
        if self.weight_decay < 0:
            raise InputError(f"`weight_decay` must not be negative; got {self.weight_decay}.")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"`patience` must be at least 1 or None; got {self.patience}.")


@dataclass
class History:
    """What happened in `fit`.

    Attributes:
        records: one dict an epoch: "epoch", "skipped" (batches that held nothing to contrast), "loss", a "loss/…" for each
            part, "temperature" where there is one, and at each look at the validation split "validation/mrr" and
            "validation/recall@1", means over all queries of the directions between two modalities.
        best_epoch: the epoch whose weights the Aligner ends with: the best validation MRR, or the last without validation.
        best: that validation MRR; None without validation.
        looks_since_best: looks at the validation split since.
        broken: modality → id → why the cell could not be read; it counted as missing.
    """

    records: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best: float | None = None
    looks_since_best: int = 0
    broken: dict[str, dict[str, str]] = field(default_factory=dict)

    def note(self, broken: Iterable[Broken]) -> None:
        """Take down what could not be read."""
        for row, modality, reason in broken:
            self.broken.setdefault(modality, {})[row] = reason

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)


def fit(
    aligner: Aligner,
    loss: Loss,
    train: Table,
    validation: Table | None = None,
    *,
    recipe: Recipe | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    cpu: bool = False,
    strict: bool = False,
    report_to: str | None = None,
) -> History:
    """Train `aligner` (and the loss's own parameters) in place.

    With a validation table the Aligner ends with the weights of the epoch whose mean reciprocal rank over the directions
    between two modalities was best there; without one, with the last. With `output`, `metrics.jsonl` gets a line an
    epoch and `checkpoints/` the state: a run that was killed and resumed ends with the very weights of one that was not
    (on the CPU).

    Args:
        aligner: the model; its features should be adapted to `train` (`Aligner.for_table`).
        loss: the objective.
        train: items with at least one modality; those with fewer than two are of use to few objectives.
        validation: never the test split.
        recipe: see `Recipe`.
        output: folder for the log and the checkpoints; nothing is written without one.
        resume: go on from the newest checkpoint in `output`, if there is one.
        progress: show a progress bar.
        cpu: stay on the CPU where there is an accelerator.
        strict: raise at a raw cell that cannot be read; otherwise it counts as missing and is listed in the History.
        report_to: a tracker that accelerate knows, "tensorboard", "wandb", "trackio" and others, which gets the records.

    Returns:
        The History.

    Raises:
        InputError: tables that do not fit the Aligner, a loss that is not finite, a checkpoint that cannot be read.
    """
    need("accelerate")
    recipe = recipe or Recipe()
    train = _prepare(train, aligner, "train")
    validation = None if validation is None else _prepare(validation, aligner, "validation")
    accelerator = _accelerator(recipe.precision, cpu, report_to, output)
    if str(accelerator.distributed_type).endswith("FSDP"):
        raise InputError(
            "`fit` does not shard parameters yet; launch it without FSDP. Your own loop can: see `gramian.distributed`."
        )
    aligner.to(accelerator.device)
    loss.to(accelerator.device)
    aligner.train()
    spread: Loss = loss
    if accelerator.num_processes > 1:
        spread = Ring(loss) if recipe.ring else Gathered(loss)
    objective = _Objective(aligner, loss, spread)
    batch_size = min(recipe.batch_size, len(train))
    if batch_size < accelerator.num_processes:
        raise InputError(f"`batch_size` must give each of {accelerator.num_processes} processes an item; got {batch_size}.")
    # What the loss cannot work with is told before anything is written; a few items show it where media are read.
    with torch.random.fork_rng(), contextlib.suppress(TooSmallError), torch.set_grad_enabled(not aligner.raw()):
        loss(aligner(train[: min(batch_size, 8) if aligner.raw() else batch_size]))
    if loss.sign_blind:
        _warn_sign_blind(repr(loss))
    optimizer = torch.optim.AdamW(_groups(objective, recipe), lr=recipe.learning_rate)
    steps = math.ceil(len(train) // batch_size / recipe.accumulate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_cosine(recipe.warmup, recipe.epochs * steps))
    objective, optimizer, schedule = accelerator.prepare(objective, optimizer, schedule)
    history = History()
    accelerator.register_for_checkpointing(history)
    tables = [train] if validation is None else [train, validation]
    run = asdict(recipe) | {
        "checkpoint_every": None,
        "workers": None,
        "loss": repr(loss),
        "modalities": list(aligner.modalities),
        "data": [t.digest() for t in tables],
    }
    folder = None if output is None else _Folder(Path(output), accelerator, run)
    best: dict[str, Tensor] = {}
    if report_to is not None:
        accelerator.init_trackers(
            "gramian", {name: value for name, value in run.items() if isinstance(value, int | float | str)}
        )

    with torch.random.fork_rng(), _progress(progress and accelerator.is_main_process) as bar:
        if folder is not None and resume:
            best = folder.restore(aligner)
        task = bar.add_task(type(loss).__name__, total=recipe.epochs, completed=len(history.records), note="")
        while not _finished(history, recipe):
            epoch = len(history.records) + 1
            # A resumed run draws the same dropout, and each process its own.
            torch.manual_seed(_mix(recipe.seed, epoch) + (accelerator.process_index << 40))
            values: dict[str, list[Tensor]] = defaultdict(list)
            skipped = 0
            batches = _batches(len(train), batch_size, recipe.seed, epoch)
            own = [torch.tensor_split(rows, accelerator.num_processes)[accelerator.process_index].tolist() for rows in batches]
            rows = Rows(train, aligner.preparer(), seed=_mix(recipe.seed, epoch), strict=strict, size=recipe.micro_batch)
            feed = iter(loader(rows, own, workers=recipe.workers))
            for count in _chunks(len(own), recipe.accumulate):
                optimizer.zero_grad()
                done = 0
                for parts in itertools.islice(feed, count):
                    history.note(found for part in parts for found in part.broken)
                    try:
                        result = _step(objective, parts, 1 / count, recipe, accelerator)
                    except TooSmallError:  # an unlucky draw, where few items have what the loss compares
                        skipped += 1
                        continue
                    done += 1
                    values["loss"].append(result.total.detach())
                    for name, part in result.parts.items():
                        values[f"loss/{name}"].append(part.detach())
                if done:
                    accelerator.clip_grad_norm_(objective.parameters(), recipe.max_gradient_norm)
                    optimizer.step()
                    schedule.step()
            if not values:
                raise InputError(
                    f"no batch of epoch {epoch} held two items to contrast by {loss!r}. Raise `batch_size` (now {batch_size})."
                )
            record = {"epoch": epoch, "skipped": skipped} | {
                name: torch.stack(part).mean().item() for name, part in values.items()
            }
            record |= _temperatures(loss)
            if not math.isfinite(record["loss"]):
                raise InputError(f"the loss is not finite in epoch {epoch} ({record['loss']}). Lower `learning_rate`.")
            if validation is not None and (epoch % recipe.evaluate_every == 0 or epoch == recipe.epochs):
                unread: list[Broken] = []
                record |= _validate(aligner, validation, recipe.workers, strict, unread)
                history.note(unread)
                if history.best is None or record["validation/mrr"] > history.best:
                    history.best, history.best_epoch, history.looks_since_best = record["validation/mrr"], epoch, 0
                    best = {name: value.detach().clone() for name, value in aligner.trained().items()}
                else:
                    history.looks_since_best += 1
            history.records.append(record)
            if report_to is not None:
                accelerator.log(record, step=epoch)
            if folder is not None:
                folder.log(history)
                if epoch % recipe.checkpoint_every == 0 or _finished(history, recipe):
                    folder.checkpoint(epoch, best)
            bar.update(task, advance=1, note=_note(record, history))
    if best:
        aligner.load_state_dict(best, strict=False)  # what is not there was not trained
    else:
        history.best_epoch = len(history.records)
    if report_to is not None:
        accelerator.end_training()
    if accelerator.num_processes > 1:  # each process has seen the cells of its own batches
        from accelerate.utils import gather_object

        for other in gather_object([history.broken]):
            for modality, found in other.items():
                history.broken.setdefault(modality, {}).update(found)
    aligner.eval()
    return history


@cache
def _warn_sign_blind(loss: str) -> None:
    """Once a process and objective."""
    logger.warning(
        "%s does not tell a vector from its negative: from new heads it tends to settle in antipodal or partly aligned "
        "solutions. Pick Pairwise(), Gram(score='cone', anchor='each') or PMRL(signed=True, alignment_temperature=0.5), "
        "unless the space is aligned already.",
        loss,
    )


def _accelerator(precision: str, cpu: bool, report_to: str | None, output: str | Path | None) -> Accelerator:
    from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs

    # Without an accelerator accelerate joins the processes of torchrun only where it is told to stay on the CPU.
    cpu = cpu or not torch.accelerator.is_available()
    tracker = _tracker(report_to)
    try:
        # A loss may leave a head alone, as one without matching does the matching head.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        # A batch is split over the processes, so that a step of theirs is one step of the schedule.
        split = DataLoaderConfiguration(split_batches=True)
        accelerator = Accelerator(
            mixed_precision=precision,
            cpu=cpu,
            kwargs_handlers=[unused],
            dataloader_config=split,
            log_with=tracker,
            project_dir=None if output is None else str(output),
        )
    except ValueError as error:  # accelerate keeps one precision a process
        raise InputError(
            f"`precision` {precision!r} cannot be used: {str(error).splitlines()[0]} Use the same `precision` as before in "
            "this process, or a new process."
        ) from None
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("`precision` 'fp16' needs an accelerator; on the CPU use 'bf16' or 'no'.")
    return accelerator


def _tracker(report_to: str | None) -> str | None:
    """The name of a tracker that can be used here."""
    if report_to is None:
        return None
    from accelerate.utils import LoggerType

    check_choice("report_to", report_to, [str(kind) for kind in LoggerType if str(kind) != "all"])
    need({"comet_ml": "comet_ml", "clearml": "clearml"}.get(report_to, report_to))
    return report_to


def _step(objective: nn.Module, parts: list[Batch], weight: float, recipe: Recipe, accelerator: Accelerator) -> LossOutput:
    """The loss of one batch, of which `parts` are this process's, and `weight` times its gradient added to the parameters."""

    def contrast(given: Batch | Bundle) -> LossOutput:
        result: LossOutput = objective(given)
        return result._replace(total=result.total * weight)

    if recipe.micro_batch is None:
        result = contrast(parts[0])
        accelerator.backward(result.total)
    else:
        result = cached_backward(
            partial(objective, encode=True),
            parts,
            contrast,
            backward=accelerator.backward,
            no_sync=lambda: accelerator.no_sync(objective),
        )
    return result._replace(total=result.total / weight)


class _Objective(nn.Module):
    """The Aligner and the loss as one module, so that one backward pass, one clip and one checkpoint serve both.

    Args:
        aligner: the model.
        loss: the objective.
        spread: the objective over the items of all processes; by default `loss` itself.
    """

    def __init__(self, aligner: Aligner, loss: Loss, spread: Loss | None = None) -> None:
        super().__init__()
        self.aligner = aligner
        self.loss = loss
        self.contrast = (spread or loss).__call__  # its parameters are those of `loss`, which are registered once
        # A matching head is part of both, and a tower may serve two modalities: their weights are stored once.
        self.shared = twins(self)
        # What training cannot change needs no place in a checkpoint.
        self.fixed = {f"aligner.{name}" for name in aligner.state_dict().keys() - aligner.trained().keys()}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Every tensor once, but for the weights of frozen towers."""
        state = super().state_dict(*args, **kwargs)
        return {name: value for name, value in state.items() if name not in self.shared and name not in self.fixed}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """What `state_dict` gave."""
        own = super().state_dict()
        whole = {name: own[name] for name in self.fixed} | dict(state_dict)
        twins = {twin: whole[name] for twin, name in self.shared.items() if name in whole}
        return super().load_state_dict({**whole, **twins}, *args, **kwargs)

    def forward(self, given: Batch | Bundle, *, encode: bool = False) -> Any:
        """The loss of a batch or of what the Aligner made of it; with `encode` what the Aligner makes of a batch.

        Every stage comes through here: a wrapper that shares parameters or gradients among processes watches this call.
        """
        bundle = given if isinstance(given, Bundle) else self.aligner(given)
        if not encode:
            return self.contrast(bundle)
        if not torch.is_grad_enabled():
            return bundle
        # The loss's parameters have their gradients already; a wrapper that exchanges them has to see them in this graph.
        tie = sum(parameter.sum() for parameter in self.loss.parameters()) * 0
        return replace(bundle, vectors=bundle.vectors + tie)


def twins(module: nn.Module) -> dict[str, str]:
    """Weights that are there under an earlier name as well: name → that earlier one."""
    first: dict[int, str] = {}
    named = itertools.chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    return {name: first[id(tensor)] for name, tensor in named if first.setdefault(id(tensor), name) != name}


class _Folder:
    """`metrics.jsonl` and `checkpoints/NNNNNN`, each written under another name first, so that none is ever half there."""

    def __init__(self, path: Path, accelerator: Accelerator, run: dict[str, Any]) -> None:
        self.path = path
        self.accelerator = accelerator
        self.run = run
        if accelerator.is_main_process:
            path.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(folder for folder in (self.path / "checkpoints").glob("*") if folder.name.isdigit())

    def log(self, history: History) -> None:
        if not self.accelerator.is_main_process:
            return
        lines = "".join(json.dumps(record) + "\n" for record in history.records)
        write_text(self.path / "metrics.jsonl", lines)

    def checkpoint(self, epoch: int, best: dict[str, Tensor]) -> None:
        older = self.checkpoints()
        partial = self.path / "checkpoints" / f"{epoch:06d}.partial"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        if best:
            save_file({name: value.cpu().contiguous() for name, value in best.items()}, partial / "best.safetensors")
        (partial / "run.json").write_text(json.dumps(self.run, indent=2))
        whole = partial.with_suffix("")
        shutil.rmtree(whole, ignore_errors=True)
        partial.replace(whole)
        for folder in older:
            if folder != whole:
                shutil.rmtree(folder)

    def restore(self, aligner: Aligner) -> dict[str, Tensor]:
        """Load the newest checkpoint into what accelerate prepared; return the best weights so far."""
        found = self.checkpoints()
        if not found:
            return {}
        newest = found[-1]
        try:
            made = json.loads((newest / "run.json").read_text())
        except (OSError, ValueError, UnicodeDecodeError):
            raise InputError(f"checkpoint {str(newest)!r} is damaged: its run.json cannot be read. Delete it.") from None
        changed = [f"{name} {made.get(name)} → {value}" for name, value in self.run.items() if made.get(name) != value]
        if changed:
            raise InputError(
                f"`resume` must go on with the settings and data of {str(newest)!r}; changed are {some(changed)}. "
                "Put them back, or train into another folder."
            )
        try:
            states = random.getstate(), np.random.get_state()  # noqa: NPY002
            self.accelerator.load_state(str(newest))
            random.setstate(states[0])  # the checkpoint's are not ours to put in their place
            np.random.set_state(states[1])  # noqa: NPY002
            best = newest / "best.safetensors"
            return load_file(best, device=str(aligner.device)) if best.exists() else {}
        except Exception as error:  # a damaged file fails in as many ways as there are files
            raise InputError(
                f"checkpoint {str(newest)!r} cannot be resumed, for it is damaged or of another model "
                f"({first_line(error):.120}). Delete it, or train into another folder."
            ) from error


def _prepare(table: Table, aligner: Aligner, argument: str) -> Table:
    missing = [name for name in aligner.modalities if name not in table.columns]
    if missing:
        raise InputError(
            f"`{argument}` lacks the columns {', '.join(missing)} that the Aligner reads; it has {', '.join(table.modalities)}."
        )
    table = table.select(*aligner.modalities).has_any()
    aligner.check(table, argument)
    mask = table.mask().double()
    shared = int((mask.T @ mask).fill_diagonal_(0).max())
    if shared < 2:
        raise InputError(f"`{argument}` must hold at least two items that share two modalities; {shared} of {len(table)} do.")
    return table


def _mix(seed: int, epoch: int) -> int:
    return 1_000_003 * seed + epoch


def _batches(items: int, batch_size: int, seed: int, epoch: int) -> Iterator[Tensor]:
    """Row numbers of each step of one epoch: a permutation of its own, the incomplete last batch left out."""
    generator = torch.Generator().manual_seed(_mix(seed, epoch))
    order = torch.randperm(items, generator=generator)
    for start in range(0, items - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def _chunks(batches: int, size: int) -> Iterator[int]:
    """How many batches each step takes."""
    for start in range(0, batches, size):
        yield min(size, batches - start)


def _groups(objective: _Objective, recipe: Recipe) -> list[dict[str, Any]]:
    """Weight matrices, which decay, and the rest, by learning rate."""
    rates = {
        id(parameter): tower.learning_rate or recipe.learning_rate
        for tower in objective.aligner.towers
        if isinstance(tower, Tower)
        for parameter in tower.parameters()
    }
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    groups = []
    for rate in dict.fromkeys([recipe.learning_rate, *rates.values()]):
        some = [p for p in parameters if rates.get(id(p), recipe.learning_rate) == rate]
        groups += [
            {"params": [p for p in some if p.ndim > 1], "weight_decay": recipe.weight_decay, "lr": rate},
            {"params": [p for p in some if p.ndim <= 1], "weight_decay": 0.0, "lr": rate},
        ]
    return groups


def _warmup_cosine(warmup: float, steps: int) -> Any:
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2

    return factor


def _validate(aligner: Aligner, validation: Table, workers: int, strict: bool, broken: list[Broken]) -> dict[str, float]:
    """Means over all queries of all directions, so that a direction few items take part in weighs little."""
    bundle = aligner.embed(validation, workers=workers, strict=strict, broken=broken)
    found = [direction.ranks for direction in single_directions(bundle)]
    if not found:
        told = "; ".join(f"{one.modality} of {one.id}: {one.reason}" for one in broken[:3])
        raise InputError(
            "`validation` must hold two items that share two modalities once it is read; it does not"
            + (f" ({told})." if told else ".")
            + " Mend its cells, or split the items anew."
        )
    together = Ranks(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    return {"validation/mrr": mean_reciprocal_rank(together), "validation/recall@1": recall_at_k(together, 1)}


def _temperatures(loss: Loss) -> dict[str, float]:
    """Every τ of the loss, by its place in it."""
    modules = ((name, module) for name, module in loss.named_modules() if isinstance(module, Temperature))
    return {f"{name}/{of}" if of else name: tau for name, module in modules for of, tau in module.values().items()}


def _finished(history: History, recipe: Recipe) -> bool:
    stalled = recipe.patience is not None and history.looks_since_best >= recipe.patience
    return stalled or len(history.records) >= recipe.epochs


def _note(record: dict[str, float], history: History) -> str:
    note = f"loss {record['loss']:.3f}"
    if history.best is not None:
        note += f", validation MRR {100 * history.best:.1f} (epoch {history.best_epoch})"
    return note


def _progress(show: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        disable=not show,
    )
