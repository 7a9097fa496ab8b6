"""Run by torchrun in tests/test_distributed.py: `fit` across processes; rank 0 leaves the weights and the history behind."""

import json
import os
import sys
from pathlib import Path

import torch

from gramian import Gram, Pairwise
from gramian.losses import Matching
from gramian.model import Aligner
from gramian.training import Recipe, fit
from gramian.training.checkpoints import RunFolder
from synthetic import world

torch.set_num_threads(1)


def main(output, options):
    options = json.loads(options)
    stop = options.pop("stop", None)
    resume = options.pop("resume", False)
    matching = options.pop("matching", False)
    train, validation = (world(90, missing=0.2).part(split) for split in ("train", "validation"))
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
                os._exit(0)  # gloo's threads may abort a process that tears itself down while others still do

        RunFolder.checkpoint = checkpoint
    recipe = Recipe(epochs=4, batch_size=21, checkpoint_every=1, **options)
    history = fit(
        aligner, loss, train, validation, recipe=recipe, output=Path(output) / "run", resume=resume, progress=False, cpu=True
    )
    if torch.distributed.is_initialized() is False or torch.distributed.get_rank() == 0:
        torch.save({"weights": aligner.state_dict(), "records": history.records}, Path(output) / "end.pt")
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
