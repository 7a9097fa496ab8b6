"""`Aligner`: a tower and a head a modality; a dict of inputs in, a Bundle in the shared space out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gramian.bundle import Bundle, all_none
from gramian.data.tables import Table
from gramian.errors import InputError, some
from gramian.files import whole, write_text
from gramian.model.heads import HeadName, build_head
from gramian.model.matcher import Matcher
from gramian.model.towers import Features

__all__ = ["Aligner", "Modality"]

_CONFIG, _WEIGHTS, _FORMAT = "config.json", "model.safetensors", "gramian.aligner"


_CARD = """---
{{ card_data }}
---

An Aligner of the Python package gramian: it projects features of several modalities into one space.

```python
from gramian.model import Aligner

aligner = Aligner.from_pretrained("…")
```
"""


@dataclass(frozen=True)
class Modality:
    """How one modality enters the shared space.

    Attributes:
        width: number of entries of a feature vector.
        head: "linear", "mlp" or "identity" (width and dim agree).
    """

    width: int
    head: HeadName = "linear"


class Aligner(
    nn.Module,
    ModelHubMixin,
    library_name="gramian",
    tags=["multimodal", "retrieval", "gramian"],
    model_card_template=_CARD,
):
    """A feature tower and a head a modality, into one space of `dim` dimensions.

    Args:
        modalities: name → its `Modality`, or its feature width alone.
        dim: width d of the shared space.
        matcher: options of a `Matcher` over these modalities, as in {"anchor": "text"}; none by default. It is saved and read
            with the Aligner, and trained by `gramian.losses.Matching(aligner.matcher)`.

    Saved with `save_pretrained`, read with `from_pretrained` (a folder or a hub id), shared with `push_to_hub`; safetensors
    only.

    >>> aligner = Aligner({"text": 3, "audio": 2}, dim=4)
    >>> aligner({"text": torch.randn(5, 3), "audio": [None, None, [0.1, 2.0], None, None]})
    Bundle(5 items, 4 dimensions, torch.float32; text 5, audio 1)
    """

    def __init__(
        self, modalities: Mapping[str, Modality | int], dim: int = 512, *, matcher: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        if not modalities:
            raise InputError("`modalities` must name at least one; got none.")
        if not 1 <= dim <= 2**20:
            raise InputError(f"`dim` must lie in [1, 2²⁰]; got {dim}.")
        self.dim = dim
        self.modalities = {name: Modality(given) if isinstance(given, int) else given for name, given in modalities.items()}
        wrong = [name for name, given in self.modalities.items() if given.head == "identity" and given.width != dim]
        if wrong:
            raise InputError(f"`head` 'identity' needs width {dim} (= `dim`); {some(wrong)} has another. Use 'linear'.")
        # A module name may not contain a dot; a modality's may.
        self.towers = nn.ModuleList([Features(given.width) for given in self.modalities.values()])
        self.heads = nn.ModuleList([build_head(given.head, given.width, dim) for given in self.modalities.values()])
        self.matcher = None if matcher is None else Matcher(tuple(self.modalities), dim, **matcher)

    @classmethod
    def for_table(
        cls,
        table: Table,
        *,
        dim: int = 512,
        head: HeadName = "linear",
        matcher: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Aligner:
        """A new Aligner for the columns of `table`, its features standardised by the statistics of the table's rows.

        Args:
            table: the training items.
            dim: width d of the shared space.
            head: of every modality.
            matcher: options of a `Matcher`, {} for its defaults; none by default.
            seed: of the first weights.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            aligner = cls({name: Modality(width, head) for name, width in table.widths.items()}, dim, matcher=matcher)
        for tower, name in zip(aligner.towers, table.modalities, strict=True):
            values = table.columns[name][table.present[name]]
            if not len(values):
                raise InputError(f"column `{name}` is empty in every row. Leave it out.")
            assert isinstance(tower, Features)
            tower.adapt(values)
        return aligner

    def forward(
        self,
        columns: Table | Mapping[str, Any],
        *,
        present: Mapping[str, Tensor] | None = None,
    ) -> Bundle:
        """Project items into the shared space.

        Args:
            columns: a Table, or name → (n, width) features, a sequence with `None` for an empty cell, or `None`. Modalities
                of the Aligner that are not there count as missing.
            present: name → (n,) bool, for (n, width) features with masked rows.

        Returns:
            A Bundle of n items over all modalities of the Aligner.

        Raises:
            InputError: an unknown modality, a wrong width, values that are not finite, an item with nothing present.
        """
        if isinstance(columns, Table):
            if present is not None:
                raise InputError("`present` goes with a dict of features; a Table has masks of its own.")
            table = columns
        else:
            table = _as_table(columns, present)
        unknown = [name for name in table.modalities if name not in self.modalities]
        if unknown:
            raise InputError(
                f"`columns` has unknown modalities {some(unknown)}; this Aligner knows {', '.join(self.modalities)}."
            )
        empty = int((~table.mask().any(1)).sum())
        if empty:
            raise InputError(f"`columns` has {empty} of {len(table)} items with no modality present. Leave them out.")
        rows: dict[str, Tensor | None] = {}
        masks: dict[str, Tensor] = {}
        for (name, given), tower, head in zip(self.modalities.items(), self.towers, self.heads, strict=True):
            if name not in table.columns:
                rows[name] = None
                continue
            if table.widths[name] != given.width:
                raise InputError(f"column `{name}` must have width {given.width}; got {table.widths[name]}.")
            there = table.present[name].to(self.device)
            projected = head(tower(table.columns[name].to(self.device)[there]))
            # Unit length to the full precision of the scores, under autocast too.
            projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
            rows[name] = projected.new_zeros(len(table), self.dim).index_put((there.nonzero().flatten(),), projected)
            masks[name] = there
        return Bundle.from_dict(rows, present=masks, ids=table.items, check=not torch.is_grad_enabled())

    @torch.no_grad()
    def embed(self, table: Table, *, batch_size: int = 4096) -> Bundle:
        """Project a whole table without a graph, in evaluation mode; the mode is put back afterwards."""
        training = self.training
        self.eval()
        try:
            return Bundle.cat(self(table[start : start + batch_size]) for start in range(0, len(table), batch_size))
        finally:
            self.train(training)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.buffers()).device

    def _save_pretrained(self, save_directory: Path) -> None:
        config = {
            "format": _FORMAT,
            "version": 1,
            "dim": self.dim,
            "modalities": {name: asdict(given) for name, given in self.modalities.items()},
            "matcher": None if self.matcher is None else self.matcher.options,
        }
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with whole(save_directory / _WEIGHTS) as partial:
            save_file(weights, partial, {"format": "pt"})
        write_text(save_directory / _CONFIG, json.dumps(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(  # type: ignore[override]  # options that nobody reads are refused, not passed on
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Aligner:
        """Read an Aligner from a folder that `save_pretrained` wrote, or from the hub; on the CPU, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id.
            revision: branch, tag or commit on the hub.
            cache_dir: where downloads are kept.
            force_download: fetch again what is in the cache.
            local_files_only: use the cache alone.
            token: for private repositories.

        Raises:
            InputError: neither a folder nor to be had from the hub; files that are missing, damaged or of another kind.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            folder = _download(
                str(pretrained_model_name_or_path),
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=[_CONFIG, _WEIGHTS],
            )
        return cls._read(folder).eval()

    @classmethod
    def _read(cls, folder: Path) -> Aligner:
        try:
            config = json.loads((folder / _CONFIG).read_text())
            if not isinstance(config, dict) or config.get("format") != _FORMAT:
                raise InputError(f"{str(folder)!r} holds another kind of model: its {_CONFIG} is not an Aligner's.")
            modalities = {name: Modality(**given) for name, given in config["modalities"].items()}
            aligner = cls(modalities, config["dim"], matcher=config.get("matcher"))
            aligner.load_state_dict(load_file(folder / _WEIGHTS))
        except FileNotFoundError as error:
            name = Path(error.filename).name if error.filename else _WEIGHTS
            below = folder / "aligner"
            hint = f" Perhaps {str(below)!r} is meant." if below.is_dir() else ""
            raise InputError(f"{str(folder)!r} is not a saved Aligner: it has no {name}.{hint}") from None
        except (SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(
                f"{str(folder)!r} is not a whole Aligner; a file is damaged or foreign ({' '.join(str(error).split()):.160})."
            ) from None
        return aligner


def _download(model_id: str, **options: Any) -> Path:
    try:
        return Path(snapshot_download(model_id, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"`model` must be a folder written by `save_pretrained`, or a hub id; {model_id!r} is no folder here and "
            f"cannot be fetched ({str(error).splitlines()[0]})."
        ) from None


def _as_table(columns: Mapping[str, Any], present: Mapping[str, Tensor] | None) -> Table:
    given = {name: column for name, column in columns.items() if column is not None and not all_none(column)}
    if not given:
        raise InputError("`columns` must hold at least one vector; got only None.")
    return Table.from_columns(given, present=present)
