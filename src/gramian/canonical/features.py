"""Nyström features of a kernel: after this map, linear heads and canonical analysis work in the kernel's space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from gramian.errors import InputError, check_choice, check_number

if TYPE_CHECKING:
    from jaxtyping import Float

__all__ = ["Kernel", "KernelName", "LandmarkChoice", "Nystroem"]

KernelName: TypeAlias = Literal["cosine", "rbf"]
LandmarkChoice: TypeAlias = Literal["rows", "kmeans"]

SPREAD = 1e-6  # eigenvalues of the landmarks' kernel below this share of the largest are zero: float32 knows no more
PAIRS = 1024  # landmarks whose distances give the median
ROUNDS = 10  # of k-means


@dataclass(frozen=True)
class Kernel:
    """A kernel, and how it is approximated.

    Attributes:
        name: "cosine" is ((1 + cos(x, y))/2)^power, "rbf" is exp(−power · ‖x − y‖²/s), s the median squared distance of the
            landmarks.
        power: the sharpness; a whole number for the cosine.
        landmarks: rows of the training table that stand for all others; every row where it has fewer.
        choice: the landmarks are "rows" drawn at random, or the centres of "kmeans".
        whiten: give each direction of the landmarks equal weight, instead of the kernel's own.
        learnable: train landmarks and sharpness as well.

    Raises:
        InputError: another name or choice, a power or a number of landmarks outside its range.
    """

    name: KernelName = "cosine"
    power: float = 4.0
    landmarks: int = 1024
    choice: LandmarkChoice = "rows"
    whiten: bool = False
    learnable: bool = False

    def __post_init__(self) -> None:
        check_choice("kernel.name", self.name, get_args(KernelName))
        check_choice("kernel.choice", self.choice, get_args(LandmarkChoice))
        check_number("kernel.power", self.power, "(0, 1000]")
        if self.name == "cosine" and self.power != round(self.power):  # others have negative eigenvalues
            raise InputError(f"`kernel.power` must be a whole number for the cosine; got {self.power}.")
        check_number("kernel.landmarks", self.landmarks, "[1, 32768]", integer=True)


class Nystroem(nn.Module):
    """φ(x) = k(x, L) U ε^(−½), L the landmarks and U diag(ε) Uᵀ their own kernel.

    φ(x)ᵀφ(y) approximates k(x, y), and equals it where x or y is a landmark. With `whiten` the map is k(x, L) U ε⁻¹.

    Args:
        width: of the inputs.
        kernel: which, and with how many landmarks.

    Attributes:
        landmarks: (k, width), of unit length for the cosine.
        sharpness: of the kernel; for "rbf" divided by the median squared distance.
        basis: (k, k), U ε^(−½); zero for directions that the landmarks do not have.

    >>> features = Nystroem(2, Kernel("cosine", power=1, landmarks=2))
    >>> features.adapt(torch.eye(2))
    >>> phi = features(torch.eye(2))
    >>> (phi @ phi.T).round(decimals=4)
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]])
    """

    landmarks: Tensor
    sharpness: Tensor
    basis: Tensor

    def __init__(self, width: int, kernel: Kernel = Kernel()) -> None:
        super().__init__()
        self.width: int = width
        self.kernel: Kernel = kernel
        self.ready: bool = False
        start = {"landmarks": torch.zeros(kernel.landmarks, width), "sharpness": torch.tensor(float(kernel.power))}
        for name, value in start.items():
            if kernel.learnable:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.register_buffer("basis", torch.zeros(kernel.landmarks, kernel.landmarks))

    @torch.no_grad()
    def adapt(self, values: Float[Tensor, "n width"], *, seed: int = 0) -> None:
        """Take the landmarks from training rows.

        Args:
            values: (n, width); with fewer rows than landmarks the rest stay unused.
            seed: of the choice.

        Raises:
            InputError: rows of another width, or that are not finite.
        """
        if values.ndim != 2 or values.shape[1] != self.width or not len(values) or not bool(values.isfinite().all()):
            raise InputError(f"`values` must be finite and of shape (n, {self.width}); got shape {tuple(values.shape)}.")
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(values), generator=generator).to(values.device)
        points = values[order[: self.kernel.landmarks]].double()
        if self.kernel.choice == "kmeans" and len(values) > len(points):
            points = _centres(values.double(), points)
        if self.kernel.name == "cosine":
            points = nn.functional.normalize(points, dim=1)
        else:
            few = points[:PAIRS]
            distances = _distances(few, few)[tuple(torch.triu_indices(len(few), len(few), 1))]
            median = float(distances.median()) if len(distances) else 0.0
            self.sharpness.fill_(self.kernel.power / (median or 1.0))
        k = len(points)
        self.landmarks.zero_()[:k] = points.to(self.landmarks)
        spectrum, U = torch.linalg.eigh(self._kernel(points, points, self.sharpness.double()))
        scale = torch.where(spectrum > SPREAD * spectrum[-1], spectrum, torch.inf)
        scale = scale if self.kernel.whiten else scale.sqrt()
        self.basis.zero_()[:k, :k] = (U / scale).flip(1).to(self.basis)
        self.ready = True

    def forward(self, values: Float[Tensor, "... width"]) -> Float[Tensor, "... k"]:
        """(..., width) → (..., k).

        Raises:
            InputError: no landmarks were taken yet.
        """
        if not self.ready:
            raise InputError("the kernel has no landmarks yet. Make the Aligner by `Aligner.for_table`, or call its `adapt`.")
        with torch.autocast(values.device.type, enabled=False):  # small differences of 16-bit products say nothing
            return self._kernel(values.to(self.landmarks.dtype), self.landmarks, self.sharpness) @ self.basis

    def _kernel(self, x: Tensor, y: Tensor, sharpness: Tensor) -> Tensor:
        if self.kernel.name == "rbf":
            return torch.exp(-sharpness * _distances(x, y))
        cosines = nn.functional.normalize(x, dim=-1) @ nn.functional.normalize(y, dim=-1).mT
        return ((1 + cosines) / 2).clamp(min=torch.finfo(cosines.dtype).tiny) ** sharpness

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.ready = self.ready or f"{prefix}basis" in state_dict

    def extra_repr(self) -> str:
        """The kernel."""
        return f"{self.width}, {self.kernel}"


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """‖x − y‖² of all pairs, by one product."""
    squares = x.square().sum(-1, keepdim=True) + y.square().sum(-1)
    return (squares - 2 * x @ y.mT).clamp(min=0)


def _centres(values: Tensor, centres: Tensor) -> Tensor:
    """k-means from these centres; one that no row is nearest to stays where it is."""
    for _ in range(ROUNDS):
        nearest = torch.cat([_distances(rows, centres).argmin(1) for rows in torch.split(values, 4096)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, values)
        counts = torch.bincount(nearest, minlength=len(centres))[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres
