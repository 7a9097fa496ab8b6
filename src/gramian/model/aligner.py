"""`Aligner`: a tower and a head a modality; a dict of inputs in, a Bundle in the shared space out."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gramian.bundle import Bundle, all_none
from gramian.data.batches import Batch, Collator, sequential_batches
from gramian.data.cells import Broken, Cells
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, listing
from gramian.files import atomic, write_text
from gramian.geometry import unit
from gramian.model.card import bare_card
from gramian.model.encoders import ENCODERS, Encoder, Writing
from gramian.model.heads import HeadName, build_head
from gramian.model.matcher import Matcher
from gramian.model.towers import Encoded, Features, Tower
from gramian.tokens import Tokens

__all__ = ["Aligner", "Modality", "device_of", "evaluating"]

_CONFIG, _WEIGHTS, _CARD, _FORMAT = "config.json", "model.safetensors", "README.md", "gramian.aligner"


@dataclass(frozen=True)
class Modality:
    """How one modality enters the shared space.

    Attributes:
        width: number of entries of a feature vector; with a tower the tower's own, which is the default.
        head: "linear", "mlp" or "identity" (width and dim agree).
        tower: reads raw cells; without one the cells are features. One tower may serve several modalities.
    """

    width: int = 0
    head: HeadName = "linear"
    tower: Tower | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.tower is not None:
            if self.width not in (0, self.tower.width):
                raise InputError(f"`width` must be that of the tower, {self.tower.width}, or left out; got {self.width}.")
            object.__setattr__(self, "width", self.tower.width)


class Aligner(
    nn.Module,
    ModelHubMixin,
    library_name="gramian",
    tags=["multimodal", "retrieval", "gramian"],
):
    """A tower and a head a modality, into one space of `dim` dimensions.

    Args:
        modalities: name → its `Modality`, its tower, or its feature width alone. Modalities that are given one and the same
            tower share its weights.
        dim: width d of the shared space.
        matcher: options of a `Matcher` over these modalities, as in {"anchor": "text"}; none by default. It is saved and read
            with the Aligner, and trained by `gramian.losses.Matching(aligner.matcher)`.
        tokens: modalities whose tokens are projected as well and come with the Bundle, for late interaction; none by default.

    Saved with `save_pretrained`, read with `from_pretrained` (a folder or a hub id), shared with `push_to_hub`; safetensors
    only.

    >>> aligner = Aligner({"text": 3, "audio": 2}, dim=4)
    >>> aligner({"text": torch.randn(5, 3), "audio": [None, None, [0.1, 2.0], None, None]})
    Bundle(5 items, 4 dimensions, torch.float32; text 5, audio 1)
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality | Tower | int],
        dim: int = 512,
        *,
        matcher: Mapping[str, Any] | None = None,
        tokens: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not modalities:
            raise InputError("`modalities` must name at least one; got none.")
        if not 1 <= dim <= 2**20:
            raise InputError(f"`dim` must lie in [1, 2²⁰]; got {dim}.")
        self.dim = dim
        self.modalities = {name: _modality(given) for name, given in modalities.items()}
        for name in tokens:
            check_choice("tokens", name, self.modalities)
        self.tokens = tuple(tokens)
        wrong = [name for name, given in self.modalities.items() if given.head == "identity" and given.width != dim]
        if wrong:
            raise InputError(f"`head` 'identity' needs width {dim} (= `dim`); {listing(wrong)} has another. Use 'linear'.")
        # A module name may not contain a dot; a modality's may.
        self.towers = nn.ModuleList([given.tower or Features(given.width) for given in self.modalities.values()])
        self.heads = nn.ModuleList([build_head(given.head, given.width, dim) for given in self.modalities.values()])
        self.matcher = None if matcher is None else Matcher(tuple(self.modalities), dim, **matcher)
        self.card: str | None = None
        self._sharing = False

    @classmethod
    def for_table(
        cls,
        table: Table,
        *,
        dim: int = 512,
        head: HeadName = "linear",
        towers: Mapping[str, Tower] | None = None,
        matcher: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Aligner:
        """A new Aligner for the columns of `table`, its features standardised by the statistics of the table's rows.

        Args:
            table: the training items.
            dim: width d of the shared space.
            head: of every modality.
            towers: modality → the tower of a column of raw cells; every such column needs one.
            matcher: options of a `Matcher`, {} for its defaults; none by default.
            seed: of the first weights of the heads.
        """
        towers = towers or {}
        for name in towers:
            check_choice("towers", name, table.columns)
        without = [name for name, column in table.columns.items() if isinstance(column, Cells) and name not in towers]
        if without:
            raise InputError(
                f"column `{without[0]}` holds raw cells and needs a tower: `towers={{{without[0]!r}: HuggingFace(…)}}`."
            )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            modalities = {
                name: Modality(head=head, tower=towers[name]) if name in towers else Modality(table.widths[name], head)
                for name in table.modalities
            }
            aligner = cls(modalities, dim, matcher=matcher)
        for tower, name in zip(aligner.towers, table.modalities, strict=True):
            if not bool(table.present[name].any()):
                raise InputError(f"column `{name}` is empty in every row. Leave it out.")
            if isinstance(tower, Features):
                tower.adapt(table.features(name)[table.present[name]])
        return aligner

    def collator(self) -> Collator:
        """What makes `Batch`es for this Aligner from rows of a table, in any process."""
        return Collator({name: cast(Tower, tower).reader for name, tower in zip(self.modalities, self.towers, strict=True)})

    def raw_modalities(self) -> tuple[str, ...]:
        """The modalities whose cells are raw."""
        return tuple(name for name, given in self.modalities.items() if given.tower is not None)

    def check(self, table: Table, argument: str = "columns") -> None:
        """Compare the columns of a table with what the towers read, without reading a cell.

        Raises:
            InputError: an unknown modality, a wrong width, raw cells for features or features for raw cells.
        """
        unknown = [name for name in table.modalities if name not in self.modalities]
        if unknown:
            raise InputError(
                f"`{argument}` has unknown modalities {listing(unknown)}; this Aligner knows {', '.join(self.modalities)}."
            )
        for name, column in table.columns.items():
            given = self.modalities[name]
            if isinstance(column, Cells) != (given.tower is not None):
                holds, wanted = ("raw cells", "features") if isinstance(column, Cells) else ("features", "raw cells")
                raise InputError(f"column `{name}` must hold {wanted}, which its tower reads; it holds {holds}.")
            if not isinstance(column, Cells) and column.shape[1] != given.width:
                raise InputError(f"column `{name}` must have width {given.width}; got {column.shape[1]}.")

    def forward(
        self,
        columns: Batch | Table | Mapping[str, Any],
        *,
        present: Mapping[str, Tensor] | None = None,
    ) -> Bundle:
        """Project items into the shared space.

        Args:
            columns: a Batch or a Table; or name → (n, width) features, a sequence of features or raw cells with `None` for an
                empty one, or `None`. Modalities of the Aligner that are not there count as missing.
            present: name → (n,) bool, for (n, width) features with masked rows.

        Returns:
            A Bundle of n items over all modalities of the Aligner. Cells that cannot be read are missing in it.

        Raises:
            InputError: an unknown modality, a wrong width, values that are not finite, an item with nothing present.
        """
        if isinstance(columns, Mapping):
            columns = _as_table(columns, present, self.raw_modalities())
        elif present is not None:
            raise InputError("`present` goes with a dict of features; a Table or a Batch has masks of its own.")
        if isinstance(columns, Table):
            self.check(columns)
            empty = int((~columns.mask().any(1)).sum())
            if empty:
                raise InputError(f"`columns` has {empty} of {len(columns)} items with no modality present. Leave them out.")
            columns = self.collator()(columns)
        return self._encode(columns.to(self.device))

    def _encode(self, batch: Batch) -> Bundle:
        rows: dict[str, Tensor | None] = {}
        masks: dict[str, Tensor] = {}
        tokens: dict[str, Tokens] = {}
        for name, tower, head in zip(self.modalities, self.towers, self.heads, strict=True):
            if name not in batch.inputs:
                rows[name] = None
                if name in self.tokens:
                    nothing = torch.zeros(len(batch), 1, self.dim, device=self.device)
                    tokens[name] = Tokens(nothing, torch.zeros(len(batch), 1, dtype=torch.bool, device=self.device))
                continue
            there = batch.present[name].to(self.device)
            found = tower(batch.inputs[name])
            encoded = found if isinstance(found, Encoded) else Encoded(found)
            # Unit length to the full precision of the scores, under autocast too.
            projected = _full(head(encoded.vectors))
            index = (there.nonzero().flatten(),)
            rows[name] = projected.new_zeros(len(batch), self.dim).index_put(index, projected)
            masks[name] = there
            if name in self.tokens:
                if encoded.tokens is None:
                    raise InputError(f"`tokens` names {name!r}, whose tower gives none.")
                values = unit(_full(head(encoded.tokens.values)))
                spread = values.new_zeros(len(batch), *values.shape[1:]).index_put(index, values)
                seen = there.new_zeros(len(batch), values.shape[1]).index_put(index, encoded.tokens.present)
                tokens[name] = Tokens(spread, seen)
        if not masks:  # not one cell could be read: vectors of nobody, in a graph as those of other processes are
            first = next(iter(rows))
            tie = sum((parameter.sum() for parameter in self.heads.parameters()), torch.zeros((), device=self.device)) * 0
            rows[first] = torch.zeros(len(batch), self.dim, device=self.device) + tie
            masks[first] = torch.zeros(len(batch), dtype=torch.bool, device=self.device)
        # Rows of a Batch may be empty: what was in them could not be read.
        check = not torch.is_grad_enabled() and bool(torch.stack([mask.cpu() for mask in masks.values()]).any(0).all())
        bundle = Bundle.from_dict(rows, present=masks, item_ids=batch.item_ids, check=check)
        return replace(bundle, tokens=tokens) if tokens else bundle

    @torch.no_grad()
    def embed(
        self,
        table: Table,
        *,
        batch_size: int | None = None,
        workers: int = 0,
        strict: bool = False,
        broken: list[Broken] | None = None,
    ) -> Bundle:
        """Project a whole table without a graph, in evaluation mode; the mode is put back afterwards.

        Args:
            table: the items.
            batch_size: items at a time; 4,096 of features, 32 with raw cells.
            workers: processes that read raw cells; 0 reads them in this one.
            strict: raise at a cell that cannot be read, which otherwise counts as missing.
            broken: a list that is given what could not be read.
        """
        self.check(table)
        found: list[Bundle] = []
        with evaluating(self):
            for batch in self.batches(table, batch_size, workers=workers, strict=strict):
                found.append(self(batch))
                if broken is not None:
                    broken.extend(batch.broken)
        return Bundle.cat(found)

    def batches(
        self, table: Table, batch_size: int | None = None, *, workers: int = 0, strict: bool = False
    ) -> Iterator[Batch]:
        """The Batches of a table in order, for embedding; arguments as for `embed`."""
        raw = any(isinstance(column, Cells) for column in table.columns.values())
        size = batch_size or (32 if raw else 4096)
        yield from sequential_batches(table, self.collator(), size, workers=workers if raw else 0, strict=strict)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return device_of(self)

    def trainable_state(self) -> dict[str, Tensor]:
        """The part of the state that training may change: all but the frozen weights of towers that are not `Features`."""
        fixed = {
            f"towers.{i}.{name}"
            for i, tower in enumerate(cast(list[Tower], list(self.towers)))
            if not isinstance(tower, Features)
            for name, value in itertools.chain(tower.named_parameters(), tower.named_buffers() if tower.frozen() else ())
            if not value.requires_grad
        }
        return {name: value for name, value in self.state_dict().items() if name not in fixed}

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        towers: Literal["auto", "reference", "value"] = "auto",
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_options: Any,
    ) -> str | None:
        """Write config, weights, processors and a model card to a folder.

        Args:
            save_directory: the folder.
            towers: "reference" writes where a tower's weights came from, and a fingerprint of them; "value" writes the
                weights; "auto" does the one for frozen towers, the other for trained ones. An adapter is always written.
                What is pushed to the hub has the weights of towers that came from a folder, too.
            repo_id: on the hub; the folder's name by default.
            push_to_hub: share what was written.
            push_options: of `push_to_hub`.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        check_choice("towers", towers, ("auto", "reference", "value"))
        self._write(folder, "share" if self._sharing and towers == "auto" else towers)
        if push_to_hub:
            return str(self.push_to_hub(repo_id or folder.name, **push_options))
        return None

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Share the Aligner on the hub; what it is made from goes along, so that it works on another machine.

        Args:
            repo_id: on the hub.
            options: of `huggingface_hub.ModelHubMixin.push_to_hub`: commit_message, private, token, branch and others.
        """
        self._sharing = True
        try:
            return str(super().push_to_hub(repo_id, **options))
        finally:
            self._sharing = False

    def _save_pretrained(self, save_directory: Path) -> None:
        self._write(save_directory, "share")

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that the folder holds."""
        del args, kwargs
        return ModelCard(self.card or bare_card(self), ignore_metadata_errors=True)

    def _write(self, folder: Path, how: Writing) -> None:
        described: dict[str, Any] = {}
        first: dict[int, str] = {}  # a tower of several modalities is written once, with the first
        outside: set[str] = set()  # weights that are not in our own file
        for i, (name, tower) in enumerate(zip(self.modalities, self.towers, strict=True)):
            if isinstance(tower, Features):
                continue
            if id(tower) in first:
                described[name] = {"same_as": first[id(tower)]}
                outside |= {f"towers.{i}.{key}" for key in tower.state_dict()}
                continue
            first[id(tower)] = name
            if isinstance(tower, Encoder):
                described[name] = tower.write(folder, f"towers/{i}", how)
                outside |= {f"towers.{i}.{key}" for key in tower.state_dict()}
            else:
                described[name] = {"class": type(tower).__name__, "width": tower.width}
        config = {
            "format": _FORMAT,
            "version": 2,
            "dim": self.dim,
            "modalities": {name: {"width": given.width, "head": given.head} for name, given in self.modalities.items()},
            "towers": described,
            "tokens": self.tokens,
            "matcher": None if self.matcher is None else self.matcher.options,
        }
        weights = {
            name: value.detach().cpu().clone().contiguous() for name, value in self.state_dict().items() if name not in outside
        }
        with atomic(folder / _WEIGHTS) as partial:
            save_file(weights, partial, {"format": "pt"})
        write_text(folder / _CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        write_text(folder / _CARD, self.card or bare_card(self))

    @classmethod
    def from_pretrained(  # type: ignore[override]  # options that nobody reads are refused, not passed on
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        towers: Mapping[str, Tower] | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Aligner:
        """Read an Aligner from a folder that `save_pretrained` wrote, or from the hub; on the CPU, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id.
            towers: modality → a tower to use in place of the one that was written; needed where that was of a class of your
                own, whose code is not in the file. Its weights are read from the file.
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
                allow_patterns=[_CONFIG, _WEIGHTS, _CARD, "towers/**"],
            )
        return cls._read(folder, dict(towers or {})).eval()

    @classmethod
    def _read(cls, folder: Path, given: dict[str, Tower]) -> Aligner:
        try:
            config = json.loads((folder / _CONFIG).read_text())
            if not isinstance(config, dict) or config.get("format") != _FORMAT:
                raise InputError(f"{str(folder)!r} holds another kind of model: its {_CONFIG} is not an Aligner's.")
            towers: dict[str, Tower] = {}
            for name, described in config.get("towers", {}).items():
                if name in given:
                    towers[name] = given.pop(name)
                    kept = described.get("files") or described.get("adapter")
                    if isinstance(towers[name], Encoder) and kept:
                        raise InputError(
                            f"`towers` replaces the encoder of `{name}`, whose weights lie in {str(folder / kept)!r}. Leave it "
                            "out, or make the encoder from there and build the Aligner anew."
                        )
                elif "same_as" in described:
                    towers[name] = towers[described["same_as"]]
                elif described["class"] in ENCODERS:
                    towers[name] = ENCODERS[described["class"]].restore(described, folder)
                else:
                    raise InputError(
                        f"the tower of `{name}` is a {described['class']}, whose code {str(folder)!r} does not hold. Pass it: "
                        f"`from_pretrained(…, towers={{{name!r}: …}})`."
                    )
            if given:
                raise InputError(f"`towers` names {listing(given)}, which the saved Aligner has no tower for.")
            modalities = {
                name: Modality(one["width"], one["head"], towers.get(name)) for name, one in config["modalities"].items()
            }
            aligner = cls(modalities, config["dim"], matcher=config.get("matcher"), tokens=config.get("tokens", ()))
            aligner._load_own(load_file(folder / _WEIGHTS))
            card = folder / _CARD
            aligner.card = card.read_text(encoding="utf-8") if card.is_file() else None
        except FileNotFoundError as error:
            name = Path(error.filename).name if error.filename else _WEIGHTS
            below = folder / "aligner"
            hint = f" Perhaps {str(below)!r} is meant." if below.is_dir() else ""
            raise InputError(f"{str(folder)!r} is not a saved Aligner: it has no {name}.{hint}") from None
        except (
            SafetensorError,
            json.JSONDecodeError,
            UnicodeDecodeError,
            KeyError,
            TypeError,
            AttributeError,
            RuntimeError,
        ) as error:
            raise InputError(
                f"{str(folder)!r} is not a whole Aligner; a file is damaged or foreign ({' '.join(str(error).split()):.160})."
            ) from None
        return aligner

    def _load_own(self, weights: Mapping[str, Tensor]) -> None:
        """Load what `_write` puts into our own file: everything but the weights of encoders."""
        found = self.load_state_dict(weights, strict=False)
        encoders = {i for i, tower in enumerate(self.towers) if isinstance(tower, Encoder)}
        twins = {i for i, tower in enumerate(self.towers) if any(tower is other for other in list(self.towers)[:i])}
        known = tuple(f"towers.{i}." for i in encoders | twins)
        missing = [name for name in found.missing_keys if not name.startswith(known)] if known else found.missing_keys
        if missing or found.unexpected_keys:
            raise RuntimeError(
                f"weights missing: {listing(missing) or 'none'}; unknown: {listing(found.unexpected_keys) or 'none'}"
            )


def _modality(given: Modality | Tower | int) -> Modality:
    if isinstance(given, Modality):
        return given
    return Modality(given) if isinstance(given, int) else Modality(tower=given)


def _full(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def device_of(module: nn.Module) -> torch.device:
    """Where the weights of a module are; the CPU for one without."""
    return next((value.device for value in itertools.chain(module.parameters(), module.buffers())), torch.device("cpu"))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _download(model_id: str, **options: Any) -> Path:
    try:
        return Path(snapshot_download(model_id, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"`model` must be a folder written by `save_pretrained`, or a hub id; {model_id!r} is no folder here and "
            f"cannot be fetched ({str(error).splitlines()[0]})."
        ) from None


def _as_table(columns: Mapping[str, Any], present: Mapping[str, Tensor] | None, raw: Sequence[str]) -> Table:
    given = {name: column for name, column in columns.items() if column is not None and not all_none(column)}
    # Arrays of features for a raw modality stay what they are, for `check` to tell.
    given = {
        name: Cells(column) if name in raw and isinstance(column, list | tuple) else column for name, column in given.items()
    }
    if not given:
        raise InputError("`columns` must hold at least one vector; got only None.")
    return Table.from_columns(given, present=present)
