"""`load_released`: a checkpoint of GRAM, PMRL or VAST as an Aligner with its matching head, set for one data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from gramian.data.released import Release, Task, TaskName, task_settings
from gramian.errors import InputError, check_choice, listing
from gramian.model.aligner import Aligner
from gramian.model.encoders.base import MODES, Mode
from gramian.model.encoders.released import (
    Checkpoint,
    KeyReport,
    ReleasedAudio,
    ReleasedMatcher,
    ReleasedText,
    ReleasedVision,
    open_checkpoint,
)
from gramian.model.encoders.released.base import fill
from gramian.model.encoders.released.keys import report_of, weights_of
from gramian.model.encoders.released.towers import VOCABULARY
from gramian.model.heads import Modality
from gramian.model.towers import Tower

__all__ = ["KeyReport", "Released", "ReleasedMatcher", "load_released"]

logger: logging.Logger = logging.getLogger("gramian")

MODALITIES = ("text", "video", "audio", "subtitle", "depth")


@dataclass(frozen=True)
class Released:
    """A released checkpoint, loaded.

    Attributes:
        aligner: its towers and heads, on the CPU, in evaluation mode; the matching head is part of it, and is saved with it.
        matcher: the matching head, for re-ranking, and the fused heads of the first stage.
        task: how media are read.
        report: what became of the keys of the file.
        temperature: τ of the contrastive loss at the end of the released training.
    """

    aligner: Aligner
    matcher: ReleasedMatcher
    task: Task
    report: KeyReport
    temperature: float


def load_released(
    model: str | Path | Checkpoint,
    task: TaskName | Task = "msrvtt",
    *,
    release: Release = "gram",
    modalities: Sequence[str] | None = None,
    mode: Mode | Mapping[str, Mode] = "freeze",
    vocabulary: str | Path = VOCABULARY,
    filename: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    gradient_checkpointing: bool = False,
) -> Released:
    """Load a checkpoint as the authors published it. Weights stay in the file until they are used: it must not change.

    Args:
        model: a file of `torch.save`; a folder with one, or with a Trainer's shards; or a hub id, as `xhLiu/PMRL`.
        task: the data set, whose settings say how many frames are read, how they are resized, where texts are cut; see
            `gramian.data.released.TASKS`. A `Task` of your own is taken as it is.
        release: whose file it is: the three read colours and channels differently.
        modalities: those of the Aligner, with "text"; the task's own by default. "depth", as videos of depth maps, needs a file
            of GRAM with five modalities.
        mode: "freeze", "lora" or "train"; or modality → mode. Text and subtitle share one BERT, video and depth one EVA.
        vocabulary: the words of the BERT, which the file lacks: `vocab.txt`, a folder that holds it, or a hub id.
        filename: of several files in a folder or on the hub.
        revision: on the hub.
        local_files_only: use the cache alone.
        gradient_checkpointing: recompute activations in the backward pass.

    Returns:
        The Aligner, its matching head, the settings and a report of the keys.

    Raises:
        InputError: a file that cannot be read, holds code or lacks a key; an unknown task; a vocabulary that is missing;
            modalities that the file has no head for.
    """
    settings = task_settings(task, release)
    names = tuple(name for name in MODALITIES if name in (modalities or settings.modalities))
    for name in modalities or ():
        check_choice("modalities", name, MODALITIES)
    if "text" not in names or len(names) < 2:
        raise InputError(f"`modalities` must hold text and at least one more; got {', '.join(modalities or names)}.")
    modes = _modes(mode, names)
    settings = replace(settings, modalities=names)
    checkpoint = open_checkpoint(model, filename=filename, revision=revision, local_files_only=local_files_only)
    report = report_of(checkpoint.source, checkpoint.tensors)
    report.check()
    if report.unexpected:
        logger.warning(
            "%d keys of the checkpoint are unknown and left out: %s.", len(report.unexpected), listing(report.unexpected)
        )
    if "depth" in names and "contra_head_d.linear.weight" not in checkpoint.tensors:
        raise InputError(f"`modalities` names depth, which {checkpoint.source!r} has no head for.")
    towers = _towers(checkpoint, settings, modes, str(vocabulary), gradient_checkpointing)
    heads, others = weights_of(checkpoint.tensors, "heads"), weights_of(checkpoint.tensors, "matcher")
    options: dict[str, int | str] = {
        "class": "ReleasedMatcher",
        "vision": others["projections.vision.0.weight"].shape[1],
        "audio": others["projections.audio.0.weight"].shape[1],
        "frames": others["places.vision"].shape[1],
        "slices": others["places.audio"].shape[1],
    }
    with torch.device("meta"):
        entries = {name: Modality(head="projection", tower=tower) for name, tower in towers.items()}
        aligner = Aligner(entries, heads["t.weight"].shape[0], matcher=options)
    for i, name in enumerate(names):
        fill(aligner.heads[i], {"weight": heads[f"{name[0]}.weight"]}, checkpoint.source)
    matcher = cast(ReleasedMatcher, aligner.matcher)  # by its options
    fill(matcher, others, checkpoint.source)
    return Released(aligner.eval(), matcher, settings, report, float(checkpoint.tensors["contra_temp"]))


def _modes(mode: Mode | Mapping[str, Mode], names: Sequence[str]) -> dict[str, Mode]:
    """Modality → mode, the same for those that share a tower."""
    if isinstance(mode, str):
        return dict.fromkeys(names, check_choice("mode", mode, MODES))
    for name, one in mode.items():
        check_choice("mode", name, names)
        check_choice(f"mode.{name}", one, MODES)
    modes = {name: mode.get(name, "freeze") for name in names}
    for first, second in (("text", "subtitle"), ("video", "depth")):
        if first in mode and second in mode and mode[first] != mode[second]:
            raise InputError(f"`mode` must be the same for {first} and {second}, which share a tower.")
        if first in names and second in names:
            modes[first] = modes[second] = mode.get(first, mode.get(second, "freeze"))
    return modes


def _towers(
    checkpoint: Checkpoint, task: Task, modes: Mapping[str, Mode], vocabulary: str, gradient_checkpointing: bool
) -> dict[str, Tower]:
    """Modality → tower, in the order of the task."""
    towers: dict[str, Tower] = {}
    source: str = checkpoint  # type: ignore[assignment]  # which a tower takes as well, and no signature shows
    for name in task.modalities:
        mode, saving = modes[name], gradient_checkpointing
        if name == "text":
            towers[name] = text = ReleasedText(
                source, vocabulary=vocabulary, max_length=task.caption_tokens, mode=mode, gradient_checkpointing=saving
            )
        elif name == "subtitle":
            towers[name] = text.twin(subtitle=True, max_length=task.subtitle_tokens)
        elif name == "audio":
            towers[name] = ReleasedAudio(
                source,
                slices=task.slices,
                channels=task.channels,
                missing=task.missing_audio,
                mode=mode,
                gradient_checkpointing=saving,
            )
        elif name == "depth" and "video" in towers:
            towers[name] = towers["video"]
        else:
            towers[name] = ReleasedVision(
                source,
                frames=task.frames,
                train_frames=task.train_frames,
                resize=task.resize,
                colours=task.colours,
                mode=mode,
                gradient_checkpointing=saving,
            )
    return towers
