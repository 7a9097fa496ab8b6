"""`SoftmaxLoss`: what every softmax over candidates shares, including its options and the learned temperature."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict, Unpack, get_args, get_type_hints

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.errors import InputError, check_choice, check_number, check_type, unknown_option
from gramian.kernels import Backend, Exchange, Form
from gramian.losses.base import Loss, LossOutput, comparable
from gramian.losses.functional import info_nce

__all__ = ["SoftmaxLoss", "SoftmaxOptions", "Temperature"]


class SoftmaxOptions(TypedDict, total=False):
    """The options of every softmax loss; `inspect.signature` of a class shows them with that class's own defaults.

    Attributes:
        temperature: initial τ, in [0.01, 100]; or one per comparison, by the name of its part, as in {"text-image": 0.07,
            "text-audio": 0.2}. None for the paper's. 0.07 as in CLIP and GRAM unless the class says otherwise.
        learn_temperature: whether τ is a parameter, held as log τ and kept at or above 0.01 (CLIP's bound; GRAM's paper has
            none). True as in the papers.
        label_smoothing: share of the target spread evenly over all candidates of the softmax, in [0, 1). 0 unless the class
            says otherwise.
        negatives: contrast with this many of the hardest negatives; None for the whole batch, as in the papers.
        block_size: rows and columns of the blocks in which the (n, n) scores are computed, and recomputed in the backward pass,
            so that memory grows with n and not with n². None to choose by size: what fits is kept. A score of your own is
            always called on the whole batch.
        backend: "torch"; or "triton" for fused kernels on CUDA, with products of features in bfloat16 and sums in float32, for
            cosine, and for volume and span of at most four vectors. They pay from about 8,192 items on.
    """

    temperature: float | Mapping[str, float] | None
    learn_temperature: bool
    label_smoothing: float
    negatives: int | None
    block_size: int | None
    backend: Backend


class SoftmaxLoss(Loss):
    """A loss that contrasts one modality with others, in one or more comparisons: the mean of their `info_nce`.

    A subclass states its paper's defaults in `defaults`, and takes `**options: Unpack[SoftmaxOptions]` beside its own options.
    Its signature then spells all of them out.

    Args:
        **options: see `SoftmaxOptions`.

    Raises:
        InputError: an option that the class does not have, or a value out of its range.
    """

    defaults: ClassVar[SoftmaxOptions] = {
        "temperature": 0.07,
        "learn_temperature": True,
        "label_smoothing": 0.0,
        "negatives": None,
        "block_size": None,
        "backend": "torch",
    }

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            setattr(cls.__init__, "__signature__", _spelled_out(cls.__init__, cls.defaults))  # noqa: B010

    def __init__(self, **options: Unpack[SoftmaxOptions]) -> None:
        super().__init__()
        for name in options:
            if name not in self.defaults:
                raise unknown_option(name, inspect.signature(type(self)).parameters, type(self).__name__)
        chosen = self.defaults | options
        if chosen["block_size"] is not None and chosen["negatives"] is not None:
            raise InputError("`negatives` needs all scores at once to find the hardest; got `block_size` too. Leave one out.")
        if chosen["backend"] != "torch" and (chosen["block_size"] or chosen["negatives"]) is not None:
            raise InputError(
                "`backend` 'triton' cuts blocks of its own, of all negatives; leave `block_size` and `negatives` out."
            )
        self.label_smoothing: float = check_number("label_smoothing", chosen["label_smoothing"], "[0, 1)")
        self.negatives: int | None = check_number("negatives", chosen["negatives"], "[1, inf)", integer=True, optional=True)
        self.block_size: int | None = check_number("block_size", chosen["block_size"], "[1, inf)", integer=True, optional=True)
        check_type("learn_temperature", chosen["learn_temperature"], bool)
        self.backend: Backend = check_choice("backend", chosen["backend"], get_args(Backend))
        temperature = 0.07 if chosen["temperature"] is None else chosen["temperature"]
        self.temperature: Temperature = Temperature(temperature, learned=chosen["learn_temperature"])

    @abstractmethod
    def form(self, usable: Bundle, query: str, targets: Sequence[str]) -> Form:
        """Scores (n, n) of every item's `query` against every item's `targets`, as a form."""

    def penalty(self, logits: Form, usable: Bundle, exchange: Exchange) -> Tensor:
        """What one comparison costs: `info_nce` with this loss's options, a scalar ≥ 0."""
        return info_nce(
            logits,
            usable.item_ids,
            label_smoothing=self.label_smoothing,
            negatives=self.negatives,
            block_size=self.block_size,
            backend=self.backend,
            exchange=exchange,
        )

    def contrast(
        self,
        bundle: Bundle,
        comparisons: Mapping[str, tuple[str, Sequence[str]]],
        what: str,
        exchange: Exchange,
        weights: Mapping[str, float] | None = None,
    ) -> LossOutput:
        """The mean over `comparisons`; one part each, over the items that have what it compares.

        Args:
            bundle: the batch.
            comparisons: name → query, targets. One with fewer than two such items is left out.
            what: what items need to take part, for the error.
            exchange: which items the batch is contrasted with.
            weights: one factor per comparison; 1 by default.

        Returns:
            The mean, weighted by `weights`, and the parts without them.

        Raises:
            TooSmallError: no comparison has two items.
        """
        parts = {}
        for name, usable in comparable(bundle, comparisons, what, exchange):
            query, targets = comparisons[name]
            parts[name] = self.penalty(self.form(usable, query, targets).over(self.temperature(name)), usable, exchange)
        if weights is None:
            return LossOutput(torch.stack(list(parts.values())).mean(), parts)
        factors = [weights[name] for name in parts]
        total = sum(factor * part for factor, part in zip(factors, parts.values(), strict=True))
        return LossOutput(torch.as_tensor(total) / sum(factors), parts)

    def extra_repr(self) -> str:
        """The options that all softmax losses share; `negatives`, `block_size` and `backend` where they are not the default."""
        options = {"negatives": self.negatives, "block_size": self.block_size}
        named = [f"{name}={value}" for name, value in options.items() if value is not None]
        named += [] if self.backend == "torch" else [f"backend={self.backend!r}"]
        return ", ".join([repr(self.temperature), f"label_smoothing={self.label_smoothing}", *named])


def _spelled_out(init: Callable[..., None], defaults: SoftmaxOptions) -> inspect.Signature:
    """The signature of `init` with every option in place of `**options`, types resolved."""
    signature, hints = inspect.signature(init), get_type_hints(init)
    parameters = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            parameters.append(parameter.replace(annotation=hints.get(name, parameter.annotation)))
        elif hints.get(name) == Unpack[SoftmaxOptions]:
            parameters += [
                inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                for (option, kind), default in zip(get_type_hints(SoftmaxOptions).items(), defaults.values(), strict=True)
            ]
        else:
            return signature
    return signature.replace(parameters=parameters)


class Temperature(nn.Module):
    """A positive temperature τ, learned as log τ, that is never below `minimum`.

    If a step takes the parameter below the bound, τ stays at the bound; from there the gradient can only lead back up.

    Args:
        initial: the first τ, or one for each of several names.
        learned: whether log τ is a parameter. It has at most one axis: optimisers that decay weight matrices leave it alone.
        minimum: the lowest τ.

    Raises:
        InputError: an initial τ below `minimum` or above 100, or none.

    >>> tau = Temperature({"text-image": 0.07, "text-audio": 0.2}, learned=True)
    >>> round(tau("text-audio").item(), 3)
    0.2
    """

    def __init__(self, initial: float | Mapping[str, float], *, learned: bool, minimum: float = 0.01) -> None:
        super().__init__()
        values = list(initial.values()) if isinstance(initial, Mapping) else [initial]
        for value in values:
            check_number("temperature", value, f"[{minimum}, 100]")
        if not values:
            raise InputError("`temperature` must hold one per comparison; got none.")
        self.names: tuple[str, ...] | None = tuple(initial) if isinstance(initial, Mapping) else None
        self.initial: dict[str, float] | float = dict(initial) if isinstance(initial, Mapping) else initial
        self.minimum = minimum
        logs = [math.log(value) for value in values]
        log = torch.tensor(logs if isinstance(initial, Mapping) else logs[0])
        if learned:
            self.log: nn.Parameter = nn.Parameter(log)
        else:
            self.register_buffer("log", log)

    def forward(self, name: str | None = None) -> Tensor:
        """τ, a scalar; that of `name` where there are several.

        Raises:
            InputError: there are several, and none has this name.
        """
        tau: Tensor = _AtLeast.apply(self.log, math.log(self.minimum)).exp()  # type: ignore[no-untyped-call]
        if self.names is None:
            return tau
        return tau[self.names.index(check_choice("temperature", str(name), self.names))]

    def check(self, names: Sequence[str]) -> None:
        """Check that several τ are those of `names`.

        Raises:
            InputError: a name without a τ, or a τ without a name.
        """
        if self.names is not None and set(self.names) != set(names):
            raise InputError(f"`temperature` must name each of {', '.join(names)}; got {', '.join(self.names)}.")

    def values(self) -> dict[str, float]:
        """Every τ as a number, by name; a single τ has the name ""."""
        return {name: float(self(name).detach()) for name in self.names or ("",)}

    def __repr__(self) -> str:
        return f"temperature={self.initial}, learn_temperature={isinstance(self.log, nn.Parameter)}"


class _AtLeast(torch.autograd.Function):
    """max(x, bound). Below the bound the gradient passes where descent leads back up, and is 0 where it leads further down."""

    @staticmethod
    def forward(x: Tensor, bound: float) -> Tensor:
        return x.clamp(min=bound)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        del output
        ctx.save_for_backward(inputs[0])
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad.masked_fill((x < ctx.bound) & (grad > 0), 0), None
