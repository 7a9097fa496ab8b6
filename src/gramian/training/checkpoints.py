"""The folder of a run: its log and its checkpoints, each whole or not there."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from gramian.errors import InputError, first_line, listing
from gramian.files import write_text
from gramian.model.aligner import Aligner

if TYPE_CHECKING:
    from accelerate import Accelerator
from gramian.training.recipe import History

__all__ = ["RunFolder"]


class RunFolder:
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
        """Write `metrics.jsonl` anew."""
        if not self.accelerator.is_main_process:
            return
        lines = "".join(json.dumps(record) + "\n" for record in history.records)
        write_text(self.path / "metrics.jsonl", lines)

    def checkpoint(self, epoch: int, best: dict[str, Tensor]) -> None:
        """Write the checkpoint of an epoch, then remove the older ones."""
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
                f"`resume` must go on with the settings and data of {str(newest)!r}; changed are {listing(changed)}. "
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
