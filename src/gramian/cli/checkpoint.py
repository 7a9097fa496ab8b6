"""The options of several commands that name a released checkpoint."""

from __future__ import annotations

from gramian.data.released import TASKS, Release, TaskName
from gramian.errors import InputError
from gramian.model.released import Released, load_released

__all__ = ["checkpoint"]


def checkpoint(
    released: str | None,
    task: TaskName | None,
    release: Release,
    vocabulary: str,
    columns: list[str] | None,
    **others: object,
) -> Released | None:
    """The checkpoint that a command names, if it names one.

    Args:
        released: the file, folder or hub id.
        task: the data set whose settings it is read with.
        release: whose checkpoint it is.
        vocabulary: the words of its BERT.
        columns: the modalities that are used; those of the task by default. "depth" is of no task, and must be named.
        others: options that do not go with it, by name.

    Returns:
        What `load_released` gives; None without `released`.

    Raises:
        InputError: a checkpoint without a task, a task without a checkpoint, one of `others`, what cannot be loaded.
    """
    if released is None:
        if task is not None:
            raise InputError("`task` is for `released`, whose settings it names. Leave it out.")
        return None
    for name, value in others.items():
        if value is not None:
            raise InputError(f"`{name}` does not go with `released`. Leave one out.")
    if task is None:
        raise InputError(f"`released` needs the data set whose settings it is read with: --task {' or '.join(TASKS)}.")
    modalities = columns if columns is not None and "depth" in columns else None
    return load_released(released, task, release=release, modalities=modalities, vocabulary=vocabulary)
