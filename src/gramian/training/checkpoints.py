"""The folder of a run: its log and its checkpoints, each complete or absent; tensors and JSON, no code.

A checkpoint is `run.json` and `state.safetensors`. It holds no state of a random generator: every epoch seeds its own draws. A
folder may come from a stranger, so what is read is checked name by name, and no link in it is followed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gramian.data.table import Table
from gramian.distributed import is_main_process
from gramian.errors import InputError, check_number, first_line, listing
from gramian.files import atomic_folder, inside, parse_json, read_json, write_lines
from gramian.model.options import convert
from gramian.training.recipe import History

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["RunFolder"]

RUN, STATE = "run.json", "state.safetensors"

_FREE = ("checkpoint_every", "workers")  # settings that a resumed run may change: the result does not depend on them
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # that AdamW keeps of each parameter it has stepped


class RunFolder:
    """`metrics.jsonl`, `speed.jsonl` and `checkpoints/NNNNNN`, none ever incomplete; in a folder that the run has claimed.

    Args:
        path: the folder.
        accelerator: prepared what is trained.
        trained: the objective, its AdamW and the schedule, as `accelerator` prepared them.
        run: the settings that a resumed run has to share.
        tables: the data that it has to share; None for an absent split.
    """

    def __init__(
        self,
        path: Path,
        accelerator: Accelerator,
        trained: tuple[nn.Module, Any, Any],
        run: Mapping[str, Any],
        tables: Sequence[Table | None],
    ) -> None:
        from accelerate.utils import broadcast_object_list

        self.path = path
        self.speeds: list[Mapping[str, float]] = []
        self.accelerator = accelerator
        self.objective: Any = accelerator.unwrap_model(trained[0])
        self.optimizer: Any = trained[1].optimizer
        self.schedule: Any = trained[2].scheduler
        digests = [table.digest() if table is not None and is_main_process() else None for table in tables]
        settings = {name: value for name, value in run.items() if name not in _FREE}
        self.run: dict[str, Any] = settings | {"data": broadcast_object_list(digests)}

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(folder for folder in inside(self.path, "checkpoints").glob("*") if folder.name.isdigit())

    def log(self, history: History, speed: Mapping[str, float]) -> None:
        """Rewrite `metrics.jsonl`, the history, and `speed.jsonl`, the time of each epoch."""
        if is_main_process():
            self.speeds.append(speed)
            for name, records in (("metrics.jsonl", history.records), ("speed.jsonl", self.speeds)):
                write_lines(self.path / name, records)

    def checkpoint(self, history: History, best: Mapping[str, Tensor]) -> None:
        """Write the checkpoint of the last epoch, then remove the older ones. All processes have the same state: one writes."""
        self.accelerator.wait_for_everyone()
        if not is_main_process():
            return
        tensors = {f"model/{name}": value for name, value in self.objective.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in best.items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{name}": value for name, value in moments.items()}
        scaler = {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
        state = {
            "run": self.run,
            "history": history.state_dict(),
            "steps": self.schedule.last_epoch,
            "rates": self.schedule.get_last_lr(),
            "scaler": scaler,
        }
        with atomic_folder(self.path / "checkpoints" / f"{len(history.records):06d}") as partial:
            save_file({name: value.detach().contiguous() for name, value in tensors.items()}, partial / STATE)
            (partial / RUN).write_text(json.dumps(state, indent=2), encoding="utf-8")
        self._keep_newest()

    def _keep_newest(self) -> None:
        for folder in self.checkpoints()[:-1] if is_main_process() else ():
            shutil.rmtree(folder)

    def restore(self, history: History) -> dict[str, Tensor]:
        """Load the newest checkpoint into what is trained and into `history`; return the best weights so far.

        Raises:
            InputError: a checkpoint of other settings or data, one that is damaged, or one that holds anything else.
        """
        checkpoints = self.checkpoints()
        if not checkpoints:
            return {}
        newest = inside(self.path / "checkpoints", checkpoints[-1].name)
        strangers = sorted(path.name for path in newest.glob("*") if path.name not in (RUN, STATE) or path.is_symlink())
        if strangers:
            raise InputError(
                f"checkpoint {str(newest)!r} holds {listing(strangers)}; a checkpoint is {RUN} and {STATE}, and no links. "
                "Pickles, which earlier versions wrote, can run code and are not read. Train into another folder."
            )
        try:
            state = read_json(newest / RUN)
            run = dict(state["run"])
        except (OSError, InputError, KeyError, TypeError, ValueError):
            raise InputError(f"checkpoint {str(newest)!r} is damaged: its {RUN} cannot be read. Delete it.") from None
        changed = [
            f"{name} {_short(run.get(name))} → {_short(value)}" for name, value in self.run.items() if run.get(name) != value
        ]
        if changed:
            raise InputError(
                f"`resume` must go on with the settings and data of {str(newest)!r}; changed are {listing(changed)}. "
                "Put them back, or train into another folder."
            )
        try:
            best = self._load(state, load_file(newest / STATE), history)
        except Exception as error:  # damaged files fail in many ways
            raise InputError(
                f"checkpoint {str(newest)!r} cannot be resumed: it is damaged or of another model "
                f"({first_line(error):.120}). Delete it, or train into another folder."
            ) from error
        self._keep_newest()  # as a process did that was killed before it could
        self.speeds = [speed for speed in _lines(self.path / "speed.jsonl") if speed.get("epoch", 0) <= len(history.records)]
        return best

    def _load(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor], history: History) -> dict[str, Tensor]:
        """Set model, optimiser, schedule and history; return the best weights."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
        for name, value in tensors.items():
            part, _, inner = name.partition("/")
            parts[part][inner] = value
        _check_shapes(parts["model"], self.objective.state_dict())
        if parts["best"]:
            _check_shapes(parts["best"], self.objective.aligner.trainable_state())
        self.objective.load_state_dict(parts["model"])
        self._load_moments(parts["optimizer"])
        steps = check_number("steps", state["steps"], "[0, inf)", integer=True)
        rates = convert(state["rates"], list[float], "rates")
        schedule = self.schedule.state_dict() | {"last_epoch": steps, "_step_count": steps + 1, "_last_lr": rates}
        self.schedule.load_state_dict(schedule)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scaler = convert(state["scaler"], dict[str, int | float], "scaler")
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        history.load_state_dict(state["history"])
        return parts["best"]

    def _load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Set what AdamW keeps of each parameter, fused or not."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        number = {str(i): i for i in range(len(parameters))}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            parameter, _, moment = name.partition("/")
            moments.setdefault(number[parameter], {})[moment] = value
        for i, of in moments.items():
            if of.keys() != _MOMENTS or any(of[name].shape != parameters[i].shape for name in _MOMENTS - {"step"}):
                raise ValueError(f"other state of the optimiser for parameter {i}")
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})


def _lines(path: Path) -> list[dict[str, float]]:
    """The records of a log; none where it is absent or damaged."""
    try:
        return [convert(parse_json(line), dict[str, int | float], "record") for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError, RecursionError):
        return []


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _check_shapes(loaded: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    wrong = sorted(loaded.keys() ^ wanted.keys()) or [name for name in wanted if loaded[name].shape != wanted[name].shape]
    if wrong:
        raise ValueError(f"other weights: {listing(wrong)}")
