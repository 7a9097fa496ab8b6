"""`gramian benchmark`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gramian.benchmark.alignment_metric import alignment_metric
from gramian.benchmark.attempts import attempts
from gramian.benchmark.learning_curve import learning_curve
from gramian.benchmark.modality_dropout import modality_dropout
from gramian.benchmark.objectives import objectives
from gramian.benchmark.plan import Study
from gramian.benchmark.scale import scale
from gramian.benchmark.stamps_selection import stamps_selection
from gramian.benchmark.standing import standing
from gramian.cli.terminal import console_of
from gramian.errors import check_choice
from gramian.files import claimed
from gramian.processes import is_main_process

__all__ = ["benchmark_command"]

STUDIES: dict[str, Study] = {
    each.plan.study: each
    for each in (
        alignment_metric,
        attempts,
        learning_curve,
        modality_dropout,
        objectives,
        scale,
        stamps_selection,
        standing,
    )
}


def benchmark_command(study: str, **options: Any) -> None:
    """Run a study with these options of a `Plan`.

    Raises:
        InputError: a study that does not exist, and what its `Study` refuses.
    """
    chosen = STUDIES[check_choice("study", study, STUDIES)]
    plan, console = replace(chosen.plan, **options), console_of()
    with claimed(plan.folder, is_main_process()):
        for path in chosen(plan, console):
            console.print(f"wrote {path}", highlight=False, markup=False)
