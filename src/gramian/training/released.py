"""Fine-tuning as released: the optimiser of GRAM, PMRL and VAST, and the epochs and batches of each data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from gramian.data.released import Release
from gramian.errors import check_choice
from gramian.training.recipe import Recipe

__all__ = ["VISION_RATE", "released_recipe"]

OPTIMISER = Recipe(
    learning_rate=2e-5,
    schedule="linear",
    weight_decay=0.01,
    warmup=0.1,
    beta2=0.98,
    epsilon=1e-6,
    max_gradient_norm=2.0,
    evaluate_every=1,
    checkpoint_every=1,
)
"""What all data sets have in common. The releases compute in fp16 on their GPUs: `precision`."""

VISION_RATE = 5e-7
"""The rate of the vision tower."""

LENGTHS: Mapping[str, tuple[int, int]] = {
    "msrvtt": (4, 32),
    "didemo": (40, 64),
    "activitynet": (20, 64),
    "vatex": (3, 64),  # 2.5 in the release
    "audiocaps": (10, 64),
    "vggsound": (10, 64),  # not released; as the other set of sounds
    "youcook2": (30, 64),
    "clotho": (10, 64),
}
"""Data set → epochs and batch size of GRAM."""


def released_recipe(task: str, release: Release = "gram", recipe: Recipe = Recipe()) -> Recipe:
    """How the authors fine-tuned on a data set.

    Args:
        task: the data set.
        release: "pmrl" has batches of 64 on MSR-VTT.
        recipe: what in it differs from the defaults of `Recipe` stays.

    Returns:
        The recipe.

    Raises:
        InputError: an unknown data set.

    >>> released_recipe("didemo", recipe=Recipe(epochs=2)).epochs, released_recipe("didemo").learning_rate
    (2, 2e-05)
    """
    epochs, batch_size = LENGTHS[check_choice("task", task, LENGTHS)]
    if (release, task) == ("pmrl", "msrvtt"):
        batch_size = 64
    released = replace(OPTIMISER, epochs=epochs, batch_size=batch_size)
    own = {field.name: value for field in fields(Recipe) if (value := getattr(recipe, field.name)) != field.default}
    return replace(released, **own)
