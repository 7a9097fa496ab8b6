"""The folder of a run: its log and its checkpoints, each complete or absent; tensors and JSON, no code."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from gramian.data.table import Table
from gramian.distributed import is_main_process
from gramian.errors import InputError, first_line, listing
from gramian.files import write_text
from gramian.training.recipe import History

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["RunFolder"]

_FREE = ("checkpoint_every", "workers")  # settings that a resumed run may change: the result does not depend on them


class RunFolder:
    """`metrics.jsonl` and `checkpoints/NNNNNN`, each written under another name first, so that none is ever incomplete.

    Args:
        path: the folder; created if needed.
        accelerator: holds what is trained.
        run: the settings that a resumed run has to share.
        tables: the data that it has to share; None for an absent split.
    """

    def __init__(self, path: Path, accelerator: Accelerator, run: Mapping[str, Any], tables: Sequence[Table | None]) -> None:
        from accelerate.utils import broadcast_object_list

        self.path = path
        self.accelerator = accelerator
        digests = [table.digest() if table is not None and is_main_process() else None for table in tables]
        settings = {name: value for name, value in run.items() if name not in _FREE}
        self.run = settings | {"data": broadcast_object_list(digests)}
        if is_main_process():
            path.mkdir(parents=True, exist_ok=True)
        accelerator.wait_for_everyone()

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(folder for folder in (self.path / "checkpoints").glob("*") if folder.name.isdigit())

    def log(self, history: History) -> None:
        """Rewrite `metrics.jsonl`."""
        if is_main_process():
            write_text(self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history.records))

    def checkpoint(self, history: History, best: Mapping[str, Tensor]) -> None:
        """Write the checkpoint of the last epoch, then remove the older ones."""
        older = self.checkpoints()
        partial = self.path / "checkpoints" / f"{len(history.records):06d}.partial"
        if is_main_process():
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if not is_main_process():
            return
        if best:
            save_file({name: value.contiguous() for name, value in best.items()}, partial / "best.safetensors")
        state = {"run": self.run, "history": history.state_dict()}
        write_text(partial / "run.json", json.dumps(state, indent=2))
        whole = partial.with_suffix("")
        shutil.rmtree(whole, ignore_errors=True)
        partial.replace(whole)
        for folder in older:
            if folder != whole:
                shutil.rmtree(folder)

    def restore(self, history: History) -> dict[str, Tensor]:
        """Load the newest checkpoint into what accelerate prepared and into `history`; return the best weights so far.

        Raises:
            InputError: a checkpoint of other settings or data, or one that is damaged.
        """
        checkpoints = self.checkpoints()
        if not checkpoints:
            return {}
        newest = checkpoints[-1]
        try:
            state = json.loads((newest / "run.json").read_text(encoding="utf-8"))
            run, records = dict(state["run"]), dict(state["history"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"checkpoint {str(newest)!r} is damaged: its run.json cannot be read. Delete it.") from None
        changed = [f"{name} {run.get(name)} → {value}" for name, value in self.run.items() if run.get(name) != value]
        if changed:
            raise InputError(
                f"`resume` must go on with the settings and data of {str(newest)!r}; changed are {listing(changed)}. "
                "Put them back, or train into another folder."
            )
        try:
            states = random.getstate(), np.random.get_state()  # noqa: NPY002
            self.accelerator.load_state(str(newest))
            random.setstate(states[0])  # these generators are the caller's, not the run's
            np.random.set_state(states[1])  # noqa: NPY002
            history.load_state_dict(records)
            best = newest / "best.safetensors"
            return load_file(best) if best.exists() else {}
        except Exception as error:  # damaged files fail in many ways
            raise InputError(
                f"checkpoint {str(newest)!r} cannot be resumed: it is damaged or of another model "
                f"({first_line(error):.120}). Delete it, or train into another folder."
            ) from error
