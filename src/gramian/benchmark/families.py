"""What the studies compare: each family is one method with several settings, among which validation chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from gramian.benchmark.study import Method, Run
from gramian.data import Table, load
from gramian.data.sets import SETS, prepared
from gramian.errors import InputError
from gramian.losses import PMRL, Centroid, Contrast, Gram, HyperGram, Loss, Pairwise, Symile, Triangle
from gramian.model import Aligner
from gramian.training import Recipe, fit, fit_canonical, join
from gramian.training.canonical import STARTING

__all__ = [
    "CLOSED",
    "CLOSED_LINEAR",
    "COLUMNS",
    "JOINED",
    "KERNEL",
    "MLP",
    "REFERENCE",
    "SEARCH",
    "STARTED",
    "TRIED",
    "Families",
    "TwoHeads",
    "anchor_of",
    "best_settings",
    "data_sets",
    "ensembles",
    "families",
    "rivals",
    "short",
    "with_recipe",
]

Families = dict[str, tuple[Method, ...]]
"""Name → its settings. A family in closed form has one method, which tries its settings itself."""

CLOSED, CLOSED_LINEAR = "MAXVAR, kernel heads", "MAXVAR, linear heads"
MLP = "InfoNCE, MLP heads"
STARTED = "InfoNCE from MAXVAR, kernel heads"
JOINED = "InfoNCE from MAXVAR, kernel and MLP heads"
REFERENCE = "InfoNCE, linear heads"
TRIED = ((0.2, 1e-3), (0.1, 1e-3), (0.2, 1e-2), (0.1, 1e-2))
"""Temperatures and learning rates among which validation chooses for every loss and seed."""

SEARCH = replace(STARTING, heads=("linear", "kernel"))
"""What the closed form tries: less than by default, for it is solved again for every size and seed."""

KERNEL = replace(SEARCH, heads=("kernel",))

COLUMNS = {"stamps": ("image", "text", "speech_fr"), "digits": ("fou", "fac", "zer")}
"""The columns of a data set that are used, where it is not all of them."""


def data_sets(
    sets: Sequence[str] | None, columns: Mapping[str, Sequence[str]] = COLUMNS, *, only: bool = False
) -> Iterator[tuple[str, Table]]:
    """The data sets of a study, one after the other.

    Args:
        sets: names; by default stamps and those that `gramian prepare` has made.
        columns: data set → its columns that are used, where it is not all of them.
        only: whether no others than these sets can be used.

    Yields:
        Name and table.

    Raises:
        InputError: another name than `columns` has, where only those can be used; a set that cannot be read.
    """
    usable = (name for name in SETS if (name in columns or not only) and prepared(name).is_file())
    for name in sets or ("stamps", *usable):
        if only and name not in columns:
            raise InputError(f"`sets` must be of {', '.join(columns)}; got {name!r}.")
        yield name, load(name, columns=list(columns[name]) if name in columns else None)


def anchor_of(table: Table) -> str:
    """The modality that anchored objectives contrast with the others: the text, or the first where there is none."""
    return "text" if "text" in table.modalities else table.modalities[0]


class _Trained(NamedTuple):
    """A loss and how it is trained."""

    loss: Callable[..., Loss]
    options: Mapping[str, Any] = MappingProxyType({})
    temperature: str = "temperature"


def families(anchor: str = "text") -> Families:
    """The methods of the learning curves.

    Args:
        anchor: the modality that published GRAM contrasts with the others.

    Returns:
        Name → methods.
    """
    linear = replace(SEARCH, heads=("linear",))
    signed = partial(PMRL, signed=True, alignment_temperature=0.5)
    return {
        CLOSED_LINEAR: (Method(CLOSED_LINEAR, None, search=linear),),
        CLOSED: (Method(CLOSED, None, search=KERNEL),),
    } | _settings(
        {
            REFERENCE: _Trained(Pairwise),
            MLP: _Trained(Pairwise, {"head": "mlp"}),
            "InfoNCE, kernel heads": _Trained(Pairwise, {"head": "kernel"}),
            STARTED: _Trained(Pairwise, {"search": KERNEL}),
            "GRAM, published": _Trained(partial(Gram, anchor=anchor)),
            "GRAM, cone, each": _Trained(partial(Gram, score="cone", anchor="each")),
            "PMRL, published": _Trained(PMRL, temperature="instance_temperature"),
            "PMRL, signed": _Trained(signed, temperature="instance_temperature"),
        }
    )


def rivals(anchor: str, modalities: int) -> Families:
    """The other published objectives, with linear heads.

    Args:
        anchor: the modality that anchored objectives contrast with the others.
        modalities: how many there are. TRIANGLE takes no more than three.

    Returns:
        Name → methods.
    """
    trained = {
        "InfoNCE, anchored": _Trained(partial(Pairwise, anchor=anchor)),
        "SigLIP": _Trained(partial(Pairwise, objective="sigmoid")),
        "TRIANGLE": _Trained(partial(Triangle, anchor=anchor)),
        "Symile": _Trained(Symile),
        "HyperGRAM": _Trained(partial(HyperGram, anchor=anchor)),
        "CentroBind": _Trained(Centroid),
        "Weighted centroid": _Trained(partial(Contrast, "weighted_centroid", anchor="each")),
    }
    if modalities > 3:
        del trained["TRIANGLE"]
    return _settings(trained)


@dataclass(frozen=True)
class TwoHeads:
    """InfoNCE from MAXVAR's kernel heads, joined with MLP heads as far as validation likes that better; one setting of each.

    Attributes:
        recipe: of both; each run replaces its seed.
    """

    recipe: Recipe = Recipe()

    def __call__(self, train: Table, validation: Table, seed: int) -> Aligner:
        """Train both and join them.

        Args:
            train: the training items.
            validation: the items that choose.
            seed: of landmarks, heads and batches.

        Returns:
            The Aligner.
        """
        first, _ = fit_canonical(train, validation, search=KERNEL, seed=seed, progress=False)
        second = Aligner.for_table(train, dim=256, head="mlp", seed=seed)
        for aligner in (first, second):
            recipe = replace(self.recipe, seed=seed)
            fit(aligner, Pairwise(temperature=0.2), train, validation, recipe=recipe, progress=False, cpu=True)
        return join(first, second, validation)[0]


def ensembles() -> Families:
    """What is made of several heads."""
    return {JOINED: (Method(JOINED, None, train=TwoHeads()),)}


def _settings(trained: Mapping[str, _Trained]) -> Families:
    return {
        name: tuple(
            Method(
                f"{name}, τ {tau:g}, rate {rate:g}",
                partial(one.loss, **{one.temperature: tau}),
                recipe=Recipe(learning_rate=rate),
                **one.options,
            )
            for tau, rate in TRIED
        )
        for name, one in trained.items()
    }


def short(tried: Families, epochs: int | None) -> Families:
    """The families, with another number of epochs for every loss if one is given."""
    if epochs is None:
        return tried

    return {name: tuple(with_recipe(one, epochs=epochs) for one in several) for name, several in tried.items()}


def with_recipe(method: Method, **changes: Any) -> Method:
    """The method with fields of its recipe replaced; the closed form, which has none, as it is."""
    if isinstance(method.train, TwoHeads):
        return replace(method, train=TwoHeads(replace(method.train.recipe, **changes)))
    return method if method.loss is None else replace(method, recipe=replace(method.recipe or Recipe(), **changes))


def best_settings(
    runs: Mapping[str, Sequence[Run]], names: Sequence[str], tried: Mapping[str, Sequence[Method]]
) -> dict[str, tuple[Run, ...]]:
    """For each seed, the run of the setting with the best validation MRR.

    Args:
        runs: name of a method → runs by seed.
        names: of families.
        tried: family → its methods.

    Returns:
        Family → runs by seed.
    """
    return {
        name: tuple(
            max(of_seed, key=lambda run: run.best) for of_seed in zip(*(runs[one.name] for one in tried[name]), strict=True)
        )
        for name in names
    }
