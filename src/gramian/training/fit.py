"""`fit`: one visible loop on accelerate, with early choice on the validation split, checkpoints and exact resume."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from rich import get_console
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.data.batches import Batch, Loader, Reading
from gramian.data.cells import Broken, summary
from gramian.data.splits import paired_items
from gramian.data.table import Table
from gramian.distributed import Gathered, Ring, check_precision, device, gather, is_main_process, rank, share, world_size
from gramian.errors import InputError, TooSmallError, check_choice, check_type, require
from gramian.files import claimed
from gramian.losses.base import Loss, LossOutput
from gramian.losses.contrast import Contrast
from gramian.losses.softmax import Temperature
from gramian.memory import ALLOCATOR
from gramian.model.aligner import Aligner
from gramian.model.towers import evaluating
from gramian.processes import watched
from gramian.sheets import progress_bar
from gramian.training.caching import cached_backward
from gramian.training.checkpoints import RunFolder
from gramian.training.objective import Objective, divide_gradients, parameter_groups, rate_factor
from gramian.training.recipe import History, Recipe
from gramian.training.token_matching import TokenMatching
from gramian.training.watching import Clock, Watch, check_finite, clock_face, validation_figures, validation_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["fit"]

logger: logging.Logger = logging.getLogger("gramian")


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
    matching: float = 0.0,
) -> History:
    """Train `aligner` (and the loss's own parameters) in place.

    With a validation table the Aligner ends with the weights of the epoch whose mean reciprocal rank over the directions
    between two modalities was best there; without one, with the last. With `output`, `metrics.jsonl` gets one line per epoch,
    `speed.jsonl` its time, and `checkpoints/` the state: a run that was killed and resumed ends with exactly the weights of one
    that was not (on the CPU). A collapse of the validation items is reported once, as a warning.

    Args:
        aligner: the model; its features should be adapted to `train` (`Aligner.for_table`).
        loss: the objective.
        train: items with at least one modality; those with fewer than two are of use to few objectives.
        validation: never the test split.
        recipe: see `Recipe`.
        output: folder for the log and the checkpoints; nothing is written without one.
        resume: continue from the newest checkpoint in `output`, if it has one.
        progress: show a progress bar; where the output is piped, log a line per epoch.
        cpu: stay on the CPU even if the machine has an accelerator.
        strict: raise at a raw cell that cannot be read; otherwise it counts as missing and is listed in the History.
        report_to: a tracker that accelerate knows, "tensorboard", "wandb", "trackio" and others, which gets the records.
        matching: weight, beside the loss, of a matching head that reads the towers' tokens, as released models have; other
            heads are trained by `gramian.losses.Matching`.

    Returns:
        The History.

    Raises:
        InputError: tables that do not fit the Aligner, a loss that is not finite, a checkpoint that cannot be read, an output
            that another run is writing to; another process that died.
    """
    require("accelerate")
    check_type("aligner", aligner, Aligner)
    check_type("loss", loss, Loss, fix="Make one, as in Pairwise().")
    check_type("recipe", recipe, Recipe, type(None), fix="Make one, as in Recipe(epochs=3).")
    check_type("output", output, str, Path, type(None))
    recipe = recipe or Recipe()
    train = _prepare(train, aligner, "train")
    validation = None if validation is None else _prepare(validation, aligner, "validation")
    pairs = None
    if matching:
        if recipe.micro_batch is not None:
            raise InputError("`micro_batch` does not go with `matching` by tokens, which a step reads whole. Leave one out.")
        score = loss.score if isinstance(loss, Contrast) and not callable(loss.score) else "volume"
        pairs = TokenMatching(aligner, matching, score)
    try:
        with watched(), contextlib.nullcontext() if output is None else claimed(output, is_main_process()):
            return _fit(aligner, loss, train, validation, recipe, output, resume, progress, cpu, strict, report_to, pairs)
    finally:
        ALLOCATOR.clear()


def _fit(
    aligner: Aligner,
    loss: Loss,
    train: Table,
    validation: Table | None,
    recipe: Recipe,
    output: str | Path | None,
    resume: bool,
    progress: bool,
    cpu: bool,
    strict: bool,
    report_to: str | None,
    pairs: TokenMatching | None,
) -> History:
    accelerator = _accelerator(recipe.precision, cpu, report_to, output)
    if str(accelerator.distributed_type).endswith("FSDP"):
        raise InputError(
            "`fit` does not shard parameters yet; launch it without FSDP. Your own loop can: see `gramian.distributed`."
        )
    aligner.to(accelerator.device)
    loss.to(accelerator.device)
    aligner.train()
    spread: Loss = loss
    if world_size() > 1:
        spread = Ring(loss) if recipe.ring else Gathered(loss)
    objective = Objective(aligner, loss, spread, recipe.modality_dropout, pairs)
    batch_size = min(recipe.batch_size, len(train))
    if batch_size < world_size():
        raise InputError(f"`batch_size` must give each of {world_size()} processes an item; got {batch_size}.")
    reaches_all = _dry_run(objective, train)
    if loss.sign_blind:
        _warn_sign_blind(repr(loss))
    adam: dict[str, Any] = {"betas": (0.9, recipe.beta2), "eps": recipe.epsilon}
    optimizer = torch.optim.AdamW(parameter_groups(objective, recipe), lr=recipe.learning_rate, **adam)
    steps = math.ceil(len(train) // batch_size / recipe.accumulate)
    factor = rate_factor(recipe.warmup, recipe.epochs * steps, recipe.schedule)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    if reaches_all and not recipe.modality_dropout and accelerator.ddp_handler is not None:
        accelerator.ddp_handler.find_unused_parameters = False
    trained = objective, optimizer, schedule = accelerator.prepare(objective, optimizer, schedule)
    history = History()
    run = asdict(recipe) | {"loss": repr(loss), "modalities": list(aligner.modalities)}
    run |= {} if pairs is None else {"matching": pairs.weight}
    folder = None if output is None else RunFolder(Path(output), accelerator, trained, run, [train, validation])
    best: dict[str, Tensor] = {}
    if report_to is not None:
        accelerator.init_trackers(
            "gramian", {name: value for name, value in run.items() if isinstance(value, int | float | str)}
        )

    reading = Reading(recipe.workers, strict)
    loader = Loader(train, aligner.collator(), reading)
    validation_loader = None if validation is None else Loader(validation, aligner.collator(), reading)
    if folder is not None and resume:
        best = folder.restore(history)
    speaks = progress and is_main_process()
    watch = Watch(0 if validation is None or not is_main_process() else len(validation), sign_blind=loss.sign_blind)
    clock = Clock(recipe.epochs, len(history.records))
    piped = speaks and not get_console().is_terminal
    with _forked(accelerator.device), progress_bar(speaks and not piped, note=True) as bar:
        task = bar.add_task("training", total=recipe.epochs, completed=len(history.records), note="")
        while not _finished(history, recipe):
            epoch = len(history.records) + 1
            # A resumed run draws the same dropout, and each process its own.
            torch.manual_seed(_mix(recipe.seed, epoch) + (rank() << 40))
            values: dict[str, list[Tensor]] = defaultdict(list)
            skipped = 0
            own = [share(rows.tolist()) for rows in _batches(len(train), batch_size, recipe.seed, epoch)]
            feed = loader(own, seed=_mix(recipe.seed, epoch), size=recipe.micro_batch)
            for _ in range(0, len(own), recipe.accumulate):
                optimizer.zero_grad()
                done = 0
                for parts in itertools.islice(feed, recipe.accumulate):
                    history.note(cell for part in parts for cell in part.broken)
                    try:
                        result = _step(objective, parts, recipe, accelerator)
                    except TooSmallError:  # an unlucky draw, where few items have what the loss compares
                        skipped += 1
                        continue
                    done += 1
                    values["loss"].append(result.total.detach())
                    for name, part in result.parts.items():
                        values[f"loss/{name}"].append(part.detach())
                if done:
                    divide_gradients(objective.parameters(), done)
                    accelerator.clip_grad_norm_(objective.parameters(), recipe.max_gradient_norm)
                    optimizer.step()
                    schedule.step()
            if not values:
                lost = f"; {len(history.broken)} cells cannot be read ({summary(history.broken)})" if history.broken else ""
                fix = "Fix the cells: gramian check lists them" if lost else f"Raise `batch_size` (now {batch_size})"
                raise InputError(f"no batch of epoch {epoch} held two items to contrast by {loss!r}{lost}. {fix}.")
            clock.rest()
            check_finite(values["loss"], epoch, recipe)
            record = {"epoch": epoch, "skipped": skipped} | {
                name: torch.stack(part).mean().item() for name, part in values.items()
            }
            record |= _temperatures(loss)
            if validation_loader is not None and (epoch % recipe.evaluate_every == 0 or epoch == recipe.epochs):
                unread: list[Broken] = []
                record |= _validate(aligner, loss, validation_loader, batch_size, unread)
                history.note(unread)
                if history.best is None or record["validation/mrr"] > history.best:
                    history.best, history.best_epoch, history.looks_since_best = record["validation/mrr"], epoch, 0
                    best = {name: value.detach().to("cpu", copy=True) for name, value in aligner.trainable_state().items()}
                else:
                    history.looks_since_best += 1
                watch.look(record)
            history.records.append(record)
            speed = clock.tick(epoch, len(own) * batch_size)
            if report_to is not None:
                accelerator.log(record | {f"speed/{name}": speed[name] for name in speed if name != "epoch"}, step=epoch)
            if folder is not None:
                folder.log(history, speed)
                if epoch % recipe.checkpoint_every == 0 or _finished(history, recipe):
                    folder.checkpoint(history, best)
            note = _note(record, history, speed)
            bar.update(task, advance=1, note=note)
            if piped:
                logger.info("epoch %d of %d: %s, %s left", epoch, recipe.epochs, note, clock_face(speed["seconds_left"]))
    if best:
        aligner.load_state_dict(best, strict=False)  # the rest was not trained
    else:
        history.best_epoch = len(history.records)
    if report_to is not None:
        accelerator.end_training()
    if world_size() > 1:  # each process has seen the cells of its own batches
        from accelerate.utils import gather_object

        history.note(gather_object(history.broken))
    aligner.eval()
    return history


@cache
def _warn_sign_blind(loss: str) -> None:
    """Warn once per process and objective."""
    logger.warning(
        "%s does not distinguish a vector from its negative: from new heads it tends to settle in antipodal or partly aligned "
        "solutions. Pick Pairwise(), Gram(score='cone', anchor='each') or PMRL(signed=True, alignment_temperature=0.5), "
        "unless the space is aligned already.",
        loss,
    )


def _accelerator(precision: str, cpu: bool, report_to: str | None, output: str | Path | None) -> Accelerator:
    from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs

    # On a machine without an accelerator, accelerate joins torchrun's processes only if `cpu` is set.
    cpu = device(cpu).type == "cpu"
    tracker = _tracker(report_to)
    try:
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
    except ValueError as error:  # accelerate keeps one precision per process
        raise InputError(
            f"`precision` {precision!r} cannot be used: {str(error).splitlines()[0]} Use the same `precision` as before in "
            "this process, or a new process."
        ) from None
    check_precision(precision, accelerator.device)
    return accelerator


def _tracker(report_to: str | None) -> str | None:
    """The name of a tracker that can be used here."""
    if report_to is None:
        return None
    from accelerate.utils import LoggerType

    check_choice("report_to", report_to, [str(kind) for kind in LoggerType if str(kind) != "all"])
    require(report_to)
    return report_to


def _forked(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Restore the random state of the CPU and of one device afterwards; saving that of every GPU is slow and warns."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _dry_run(objective: Objective, train: Table) -> bool:
    """Run the loss once on a few of the most complete items, so that data it cannot use fails before anything is written.

    Returns:
        With several processes, whether every batch is sure to reach every parameter that is trained: this one did, and no cell
        is or can be missing. A loss may leave a head alone, as one without matching does the matching head.
    """
    richest = train.mask().sum(1).argsort(descending=True, stable=True)[:8]
    complete = world_size() > 1 and bool(train.mask().all()) and not objective.aligner.raw_modalities()
    batch = objective.aligner.collator()(train[richest.sort().values])
    with _forked(objective.aligner.device), contextlib.suppress(TooSmallError), torch.set_grad_enabled(complete):
        total = objective.loss(objective.aligner(batch)).total
        trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        return complete and None not in torch.autograd.grad(total, trained, allow_unused=True)
    return False


def _step(objective: nn.Module, parts: list[Batch], recipe: Recipe, accelerator: Accelerator) -> LossOutput:
    """The loss of one batch, of which `parts` are this process's; its gradient is added to the parameters'."""
    if recipe.micro_batch is None:
        result: LossOutput = objective(parts[0])
        accelerator.backward(result.total)
        return result
    return cached_backward(
        partial(objective, encode=True),
        parts,
        objective,
        backward=accelerator.backward,
        no_sync=lambda: accelerator.no_sync(objective),
    )


def _prepare(table: Table, aligner: Aligner, argument: str) -> Table:
    check_type(argument, table, Table, fix="Table.from_columns makes one.")
    missing = [name for name in aligner.modalities if name not in table.columns]
    if missing:
        raise InputError(
            f"`{argument}` lacks the columns {', '.join(missing)} that the Aligner reads; it has {', '.join(table.modalities)}."
        )
    table = table.select(*aligner.modalities).has_any()
    aligner.check(table, argument)
    if len(table.modalities) < 2:
        raise InputError(f"`{argument}` must have two modalities to align; it has {', '.join(table.modalities)} alone.")
    shared = paired_items(table)
    if shared < 2:
        raise InputError(f"`{argument}` must hold at least two items that share two modalities; {shared} of {len(table)} do.")
    return table


def _mix(seed: int, epoch: int) -> int:
    return 1_000_003 * seed + epoch


def _batches(items: int, batch_size: int, seed: int, epoch: int) -> Sequence[Tensor]:
    """Row numbers of each step of one epoch: a permutation of its own, the incomplete last batch left out."""
    order = torch.randperm(items, generator=torch.Generator().manual_seed(_mix(seed, epoch)))
    return torch.split(order[: items // batch_size * batch_size], batch_size)


def _validate(aligner: Aligner, loss: Loss, validation: Loader, batch_size: int, broken: list[Broken]) -> dict[str, float]:
    """Figures of the validation items: see `validation_figures` and `validation_loss`.

    Each process embeds its share of the items; all of them rank them all, and so choose alike.
    """
    bundles = []
    with evaluating(aligner), torch.no_grad():
        for batch in validation.in_order(rows=cast(range, share(range(len(validation.table))))):
            bundles.append(aligner(batch))
            broken.extend(batch.broken)
        bundle = gather(Bundle.cat(bundles))
    figures = validation_figures(bundle)
    if not figures:
        raise InputError(
            "`validation` must hold two items that share two modalities once it is read; it does not"
            + (f" ({summary(broken)})." if broken else ".")
            + " Fix its cells, or split the items differently."
        )
    return figures | validation_loss(loss, bundle, batch_size)


def _temperatures(loss: Loss) -> dict[str, float]:
    """Every τ of the loss, by its place in it."""
    modules = ((name, module) for name, module in loss.named_modules() if isinstance(module, Temperature))
    return {f"{name}/{of}" if of else name: tau for name, module in modules for of, tau in module.values().items()}


def _finished(history: History, recipe: Recipe) -> bool:
    stalled = recipe.patience is not None and history.looks_since_best >= recipe.patience
    return stalled or len(history.records) >= recipe.epochs


def _note(record: dict[str, float], history: History, speed: dict[str, float]) -> str:
    note = f"loss {record['loss']:.3f}"
    if "validation/mrr" in record:
        note += f", validation MRR {100 * record['validation/mrr']:.1f}"
    if history.best is not None:
        note += f", best {100 * history.best:.1f} (epoch {history.best_epoch})"
    return note + f", {speed['items_per_second']:,.0f} items/s"
