"""`train`: a whole run, as `gramian train` makes it: table → splits → Aligner → weights, report and model card in a folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from gramian.canonical.features import Kernel
from gramian.data import Reading, Table, load
from gramian.data.released import TASKS, Release, TaskName, task_settings
from gramian.data.splits import drawn, paired_items
from gramian.distributed import device, is_main_process
from gramian.errors import InputError, check_choice, check_number, check_type, listing, renamed
from gramian.evaluation.evaluate import kept_vectors, sample_rows
from gramian.evaluation.released import askable
from gramian.files import check_folder, claimed, has_run, inside, write_lines
from gramian.losses import Contrast, Loss, Matching, Pairwise
from gramian.model.aligner import Aligner
from gramian.model.encoders.base import Mode
from gramian.model.encoders.released.towers import VOCABULARY
from gramian.model.heads import HeadName
from gramian.model.matcher import Matcher
from gramian.model.released import load_released
from gramian.model.specs import Spec, build_loss, build_towers
from gramian.model.starts import identity_heads
from gramian.model.towers import Tower
from gramian.processes import watched
from gramian.training.canonical import STARTING, Choice, Search, fit_canonical
from gramian.training.finishing import Parts, Run, finish
from gramian.training.fit import fit
from gramian.training.joining import JoinedHistory, join
from gramian.training.leash import fit_leashed
from gramian.training.recipe import History, Recipe
from gramian.training.released import VISION_RATE, released_recipe

__all__ = ["train"]

logger: logging.Logger = logging.getLogger("gramian")

_SIGNS = ("aligner", "checkpoints/*", "also/checkpoints/*", "leash-*/checkpoints/*")
"""What the folder of a run holds, whole or not."""


Method: TypeAlias = Literal["contrast", "canonical"]
Start: TypeAlias = Literal["random", "canonical", "identity"]
Preset: TypeAlias = Literal["released", "none"]


def train(
    data: str | Path,
    output: Path | str,
    loss: Loss | Spec | None = None,
    columns: Sequence[str] | None = None,
    towers: Mapping[str, Tower | Spec] | None = None,
    released: str | Path | None = None,
    task: TaskName | None = None,
    release: Release = "gram",
    vocabulary: str = VOCABULARY,
    mode: Mode = "train",
    preset: Preset = "released",
    gradient_checkpointing: bool = False,
    method: Method = "contrast",
    start: Start | None = None,
    leash: Sequence[float] | None = None,
    head: HeadName | None = None,
    kernel: Kernel | None = None,
    also: HeadName | None = None,
    dim: int | None = None,
    search: Search = Search(),
    landmarks: Sequence[int] | None = None,
    recipe: Recipe = Recipe(),
    matching: float = 0.0,
    bank: int = 0,
    validation_share: float = 0.1,
    resume: bool = False,
    strict: bool = False,
    report_to: str | None = None,
    progress: bool = True,
    trust_code: bool = False,
    media_root: list[Path] | None = None,
) -> Run:
    """Train an Aligner on a table and save the weights that are best on the validation split, with a report and a model card.

    With three modalities or more the validation split also says how much each of them counts in a joint query
    (`Aligner.query_weights`); the report has a row for it where its items are others.

    Two methods give the same kind of Aligner: "contrast" descends a loss, "canonical" solves canonical analysis in closed
    form, in seconds, for frozen towers (docs/canonical.md).

    A table with a column `split` is trained on "train" and chosen on "validation"; "test" is read once, at the end, for the
    report. Otherwise a share of the items is held out by the recipe's seed, and the report is of those.

    Args:
        data: the training table: "stamps", a file, a folder or a hub id.
        output: folder for the model, the report, the log and the checkpoints.
        loss: the objective, by name, followed by its options, as in --loss Gram --loss.score cone; as published by default.
            Without one what measured best: for features Pairwise at temperature 0.2, from the closed form (see `start`);
            otherwise the sum of Pairwise and Gram's cone, each at temperature 0.2.
        columns: the modalities to use; by default those of the towers and every column of features.
        towers: column → the encoder that reads its raw cells; in a YAML file.
        released: a checkpoint as the authors of GRAM, PMRL or VAST published it, to go on from: a file, a folder or a hub id.
        task: the data set whose settings `released` is read with.
        release: whose checkpoint `released` is.
        vocabulary: the words of the BERT of `released`: vocab.txt, a folder or a hub id.
        mode: of the towers of `released`: "train", "lora" or "freeze".
        preset: of `released`: "released" takes the authors' optimiser, epochs and batches for what `recipe` leaves at its
            defaults; "none" the recipe as it is.
        gradient_checkpointing: of the towers of `released`: compute activations again in the backward pass, in less memory.
        method: "contrast" trains by a loss; "canonical" solves in closed form, with `search` in place of loss and recipe.
        start: of the heads in "contrast": "random"; "canonical", in closed form, for heads "linear", "residual" and "kernel";
            or "identity", for modalities that share one space of width `dim` already. By default "canonical", with kernel heads
            that InfoNCE trains on (τ = 0.2), and `also` "mlp", for features where neither loss, head, kernel nor leash is
            named, and "random" otherwise.
        leash: weights of a penalty on moving away from `start` "canonical": each is tried, as are no leash and the closed form
            itself, and the best on the validation split stays.
        head: of every modality; "linear" by default (but see `start`), and in closed form what the search finds best.
        kernel: of heads "kernel"; with "canonical" by default what the search finds best.
        also: heads of another kind, trained from random weights by the same loss and recipe, and joined with the first as far
            as the validation split likes that better (`gramian.training.join`); for features and frozen towers.
        dim: width of the shared space; 512 by default, and in closed form what the search finds best; joined, each head has it.
        search: what "canonical" tries on the validation split.
        landmarks: numbers of landmarks that the search tries with each of its kernels, as in 256,1024,4096; by default each
            kernel has its own.
        recipe: how to train.
        matching: weight of a matching head beside the loss, which `gramian evaluate` re-ranks with; 0.1 in the papers, 0
            trains none. Its hard negatives come from the loss's own score, its anchor is the loss's.
        bank: number of training items that are kept with the Aligner in the shared space, for `gramian evaluate --hubs`.
        validation_share: share of the items to hold out where the table has no splits.
        resume: continue from the newest checkpoint in the output folder.
        strict: stop at a raw cell that cannot be read; otherwise it counts as missing and is listed in the report.
        report_to: a tracker for the log: tensorboard, wandb, trackio or another that accelerate knows.
        progress: show a progress bar.
        trust_code: let `towers` and `loss` name classes of other modules, whose code then runs; typed, never in a file.
        media_root: folders outside of the table's own that its cells may name files in; typed, never in a file.

    Returns:
        A `Run`: the Aligner, the History, the Report, and the paths of the Aligner and the report.

    Raises:
        InputError: an output folder that holds a run already, unless `resume`, or that another run is writing to; a table, a
            loss or towers that cannot be used; another process that died.
    """
    check_type("output", output, str, Path)
    check_type("recipe", recipe, Recipe, fix="Make one, as in Recipe(epochs=3).")
    check_type("data", data, str, Path, fix="`fit` takes tables in memory.")
    data, output = str(data), Path(output)
    check_number("matching", matching, "[0, inf)")
    check_number("bank", bank, "[0, inf)", integer=True)
    if dim is not None:
        check_number("dim", dim, "[1, 1048576]", integer=True)
    check_choice("method", method, get_args(Method))
    unsaid = method == "contrast" and all(value is None for value in (start, loss, head, kernel, leash))
    start = check_choice("start", start or "random", get_args(Start))
    if method == "canonical":
        _check_closed(
            recipe, loss=loss, matching=matching, start=start != "random", leash=leash, resume=resume, report_to=report_to
        )
    elif start != "canonical" and not unsaid:
        for option, unused in (("search", search == Search()), ("landmarks", landmarks is None)):
            if not unused:
                raise InputError(f"`{option}` is for `method` 'canonical' and `start` 'canonical'. Leave it out.")
    if also is not None and (method == "canonical" or matching or leash is not None or released is not None):
        raise InputError(
            "`also` joins heads that a loss trains; it does not go with `method` 'canonical', `matching`, `leash` or "
            "`released`. Leave it out."
        )
    if leash is not None and start != "canonical":
        raise InputError("`leash` is for `start` 'canonical', from which it lets training depart. Leave it out.")
    if kernel is not None and (head or ("kernel" if method == "canonical" else "linear")) != "kernel":
        raise InputError(f"`kernel` is for heads 'kernel'; got {head or 'linear'!r}. Name them by `head`, or leave it out.")
    if released is not None:
        _check_released(task, towers=towers, method=method != "contrast", start=start != "random", head=head, dim=dim)
        check_choice("preset", preset, get_args(Preset))
        if preset == "released":
            recipe = released_recipe(str(task), release, recipe)
    elif task is not None:
        raise InputError("`task` is for `released`, whose settings it names. Leave it out.")
    check_folder(output)
    for name in ("aligner", "also"):  # a folder of somebody else may be resumed
        inside(output, name)
    with watched(), claimed(output, is_main_process()):
        if is_main_process() and has_run(output, _SIGNS, resume=resume) and not resume:
            raise InputError(f"`output` {str(output)!r} holds a run already. Go on with --resume, or name another folder.")
        if resume and (output / "aligner").exists() and not any(any(output.glob(sign)) for sign in _SIGNS[1:]):
            raise InputError(
                f"`resume` needs checkpoints; {str(output)!r} holds a finished model without any, as 'canonical' writes it. "
                "Name another folder."
            )
        objective = build_loss(loss, trust_code=trust_code)
        encoders = build_towers(towers, columns, recipe.seed, trust_code=trust_code)
        raw = list(encoders) if task is None else list(columns or task_settings(task, release).modalities)
        table = load(data, columns=columns, raw=raw, media_root=media_root)
        parts = Parts.of(table if released is None else askable(table), validation_share, recipe.seed)
        anchor = _anchor(objective, parts.training.modalities)
        reading = Reading(recipe.workers, strict)
        if unsaid and not encoders and released is None:
            start, also = "canonical", also or (None if matching else "mlp")
        elif also is not None:
            _check_also(encoders, parts.validation)
        options: dict[str, Any] = {"towers": encoders, "matcher": {"anchor": anchor} if matching else None, "seed": recipe.seed}
        choice: Choice | None = None
        if released is not None and task is not None:
            with renamed(model="released", modalities="columns"):
                loaded = load_released(
                    released,
                    task,
                    release=release,
                    modalities=table.modalities,
                    mode=mode,
                    vocabulary=vocabulary,
                    gradient_checkpointing=gradient_checkpointing,
                )
            aligner, objective = loaded.aligner, _at_temperature(objective, loss, loaded.temperature)
            if mode == "train" and preset == "released" and "video" in aligner.towers:
                aligner.towers["video"].learning_rate = VISION_RATE
        elif method == "canonical" or start == "canonical":
            if method == "contrast" and not unsaid:
                head, dim = head or "linear", 512 if dim is None else dim
            search = _narrowed(STARTING if unsaid and search == Search() else search, head, kernel, dim, landmarks)
            try:
                aligner, choice = fit_canonical(
                    parts.training, parts.validation, search=search, reading=reading, progress=progress, **options
                )
                objective = Pairwise(temperature=0.2) if unsaid else objective
            except InputError as error:
                if not unsaid:
                    raise
                logger.warning("training starts from random heads, since the closed form cannot be solved: %s", error)
                start, also = "random", None
        if released is None and choice is None:
            fresh: dict[str, Any] = {"dim": 512 if dim is None else dim, "head": head or "linear", "kernel": kernel or Kernel()}
            aligner = Aligner.for_table(parts.training.has_any(), **fresh, **options)
            if start == "identity":
                identity_heads(aligner.towers, aligner.named_heads())
        history: History | Choice
        begun: Table | None = None
        if method == "canonical" and choice is not None:
            history = choice
            if is_main_process():
                write_lines(output / "metrics.jsonl", choice.records)
        else:
            if is_main_process():
                shown = parts.held_out(aligner)
                shown = shown[sample_rows(len(shown))]
                begun = kept_vectors(aligner.to(device()).embed(shown, reading=reading), shown.ids)
                if choice is not None:
                    logger.info("starting from the closed form: validation MRR %.1f %%, %s", 100 * choice.best, choice.chosen)
            if isinstance(aligner.matcher, Matcher):
                score = objective.score if isinstance(objective, Contrast) and not callable(objective.score) else "centroid"
                objective = objective + matching * Matching(aligner.matcher, score=score, anchor=anchor)
            how: dict[str, Any] = {"recipe": recipe, "resume": resume, "progress": progress, "report_to": report_to}
            if leash is not None:
                history = fit_leashed(
                    aligner, objective, parts.training, parts.validation, leash, reading=reading, output=output, **how
                )
            elif also is not None:
                fresh = {"dim": 256 if dim is None else dim, "head": also, "kernel": kernel or Kernel()}
                second, beside = Aligner.for_table(parts.training.has_any(), **fresh, **options), deepcopy(objective)
                first = fit(aligner, objective, parts.training, parts.validation, output=output, strict=strict, **how)
                logger.info("training %s heads beside them, which join as far as validation likes that", also)
                other = fit(second, beside, parts.training, parts.validation, output=output / "also", strict=strict, **how)
                aligner, shares = join(aligner, second, parts.validation, reading=reading)
                history = JoinedHistory.of(first, other, shares)
            else:
                how["matching"] = matching if released is not None else 0.0
                history = fit(aligner, objective, parts.training, parts.validation, output=output, strict=strict, **how)
        if bank:
            aligner.bank = aligner.embed(drawn(parts.training.has_any(), bank, recipe.seed), reading=reading).to("cpu")
        if not is_main_process():
            return Run(aligner, history, None, ())
        how = {"how": search if method == "canonical" else recipe, "objective": objective, "data": data, "seed": recipe.seed}
        return finish(aligner, history, parts, output, begun, reading=reading, **how)


def _check_closed(recipe: Recipe, **options: Any) -> None:
    """Refuse what only training by a loss reads."""
    for option, value in options.items():
        if value:
            raise InputError(f"`{option}` is for `method` 'contrast'; 'canonical' solves in closed form. Leave it out.")
    if replace(recipe, seed=0, workers=0) != Recipe():
        raise InputError(
            "`recipe` is for `method` 'contrast'; 'canonical' reads its seed and workers alone. Leave the rest out."
        )


def _check_also(towers: Mapping[str, Tower], validation: Table) -> None:
    """Refuse what cannot be joined before anything is trained."""
    trained = [name for name, tower in towers.items() if not tower.frozen()]
    if trained:
        raise InputError(f"`also` needs frozen towers; that of {listing(trained)} is trained. Leave it out, or freeze it.")
    if paired_items(validation) < 2:
        raise InputError("`also` needs validation items that share two modalities. Hold out more, or leave it out.")


def _check_released(task: str | None, **options: Any) -> None:
    """Refuse what a released checkpoint decides itself."""
    if task is None:
        raise InputError(f"`released` needs the data set whose settings it is read with: --task {' or '.join(TASKS)}.")
    for option, value in options.items():
        if value:
            raise InputError(f"`{option}` does not go with `released`, which has towers and heads of its own. Leave it out.")


def _at_temperature(objective: Loss, spec: Loss | Spec | None, temperature: float) -> Loss:
    """A loss that was named without a temperature, at that of a checkpoint."""
    options = spec.get("init_args") or {} if isinstance(spec, Mapping) else {}
    if not isinstance(objective, Contrast) or isinstance(spec, Loss) or "temperature" in options:
        return objective
    name = spec.get("class_path") if isinstance(spec, Mapping) else spec
    return build_loss({"class_path": name, "init_args": {**options, "temperature": max(0.01, float(f"{temperature:.4g}"))}})


def _narrowed(
    search: Search, head: HeadName | None, kernel: Kernel | None, dim: int | None, landmarks: Sequence[int] | None
) -> Search:
    """The search among what the options leave open."""
    chosen = {"heads": head, "kernels": kernel, "dims": dim}
    fixed: dict[str, Any] = {name: (value,) for name, value in chosen.items() if value is not None}
    search = replace(search, **fixed)
    return search if landmarks is None else search.of_landmarks(landmarks)


def _anchor(loss: Loss, modalities: Sequence[str]) -> str:
    """The loss's own fixed anchor, or "each"."""
    anchor = getattr(loss, "anchor", None)
    return anchor if isinstance(anchor, str) and anchor in modalities else "each"
