"""`Aligner`: towers, and a head for each; a dict of inputs in, a Bundle in the shared space out.

Over 400 lines, most of them docstrings: one class, with all the ways to make, use, save and share it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gramian.bundle import Bundle
from gramian.canonical import Criterion, solve
from gramian.canonical.features import Kernel
from gramian.data.batches import Batch, Collator, Loader, Reading
from gramian.data.cells import Broken, summary
from gramian.data.table import Table
from gramian.errors import InputError, check_choice, check_number, check_type, listing
from gramian.geometry import unit, widened
from gramian.model import saving
from gramian.model.heads import HeadName, Modality, head_of
from gramian.model.matcher import AnyMatcher, build_matcher
from gramian.model.starts import EncodedRows, adapt_heads, fill_heads, moments_of
from gramian.model.towers import Columns, Encoded, Features, Tower, Towers, device_of, evaluating, seeded
from gramian.tokens import Tokens

__all__ = ["Aligner"]

logger: logging.Logger = logging.getLogger("gramian")


class Aligner(nn.Module):
    """A tower and a head for each modality, into one space of `dim` dimensions.

    Args:
        modalities: name → its `Modality`, its tower, or its feature width alone. Modalities with one and the same tower share
            its weights.
        dim: width d of the shared space.
        matcher: options of a `Matcher` over these modalities, as in {"anchor": "text"}; none by default. It is saved and read
            with the Aligner, and trained by `gramian.losses.Matching(aligner.matcher)`. That of `load_released` is a
            `ReleasedMatcher`.
        tokens: modalities whose tokens are projected as well and come with the Bundle, for late interaction; none by default.

    Attributes:
        towers: modality → tower, `Features` where the cells are features.
        heads: one per modality, in their order.
        bank: training items in the shared space, by which `evaluate` corrects scores for hubs; none by default.
        query_weights: modality asked for → modality → how much it counts where several ask together, as
            `gramian.evaluation.choose_weights` finds them; none by default.
        card: the model card; None for one that `save_pretrained` writes from the Aligner itself.

    Raises:
        InputError: no modalities, a `dim` outside [1, 2²⁰], an unknown modality in `tokens`, an identity of another width.

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
        check_type("modalities", modalities, Mapping, fix="Name each, with its width or tower: {'text': 384}.")
        if not modalities:
            raise InputError("`modalities` must name at least one; got none.")
        for name, entry in modalities.items():
            check_type("modalities", name, str)
            check_type(f"modalities[{name!r}]", entry, int, Tower, Modality)
        self.dim: int = check_number("dim", dim, "[1, 1048576]", integer=True)
        self.modalities: dict[str, Modality] = {name: _modality(entry) for name, entry in modalities.items()}
        for name in tokens:
            check_choice("tokens", name, self.modalities)
        self.tokens: tuple[str, ...] = tuple(tokens)
        wrong = [name for name, entry in self.modalities.items() if entry.head == "identity" and entry.width != dim]
        if wrong:
            raise InputError(f"`head` 'identity' needs width {dim} (= `dim`); {listing(wrong)} has another. Use 'linear'.")
        self.towers: Towers = Towers(
            {name: Features(one.width) if one.tower is None else one.tower for name, one in self.modalities.items()}
        )
        self.heads: nn.ModuleList = nn.ModuleList([head_of(entry, dim) for entry in self.modalities.values()])
        self.matcher: AnyMatcher | None = None if matcher is None else build_matcher(matcher, self.towers, dim)
        self.bank: Bundle | None = None
        self.query_weights: dict[str, dict[str, float]] = {}
        self.card: str | None = None

    @classmethod
    def for_table(
        cls,
        table: Table,
        *,
        dim: int = 512,
        head: HeadName | Mapping[str, HeadName] = "linear",
        kernel: Kernel = Kernel(),
        towers: Mapping[str, Tower] | None = None,
        matcher: Mapping[str, Any] | None = None,
        seed: int = 0,
        rows: EncodedRows | None = None,
    ) -> Aligner:
        """A new Aligner for the columns of `table`, its features standardised by the statistics of the table's rows.

        Args:
            table: the training items.
            dim: width d of the shared space.
            head: of every modality, or modality → its own.
            kernel: of heads "kernel", whose landmarks are rows of the table.
            towers: modality → the tower of a column of raw cells; every such column needs one.
            matcher: options of a `Matcher`, {} for its defaults; none by default.
            seed: of the initial weights of the heads, and of the landmarks.
            rows: of the table, where its raw cells have been encoded already.

        Returns:
            The Aligner, on the CPU, in training mode.

        Raises:
            InputError: columns and towers that do not fit, a column that is empty in every row, options as for the class.
        """
        check_type("table", table, Table, fix="Table.from_columns makes one.")
        every = Towers.for_table(table, towers)
        names = dict.fromkeys(every, head) if isinstance(head, str) else head
        if set(names) != set(every):
            raise InputError(f"`head` must be one name, or name one for each of {', '.join(every)}; got {listing(names)}.")
        modalities = {}
        for name, tower in every.items():
            fewest = min(kernel.landmarks, int(table.present[name].sum()))
            modalities[name] = Modality(head=names[name], tower=tower, kernel=replace(kernel, landmarks=fewest))
        with seeded(seed):
            aligner = cls(modalities, dim, matcher=matcher)
        adapt_heads(rows or EncodedRows(aligner.towers, table), aligner.named_heads(), seed)
        return aligner

    @classmethod
    def canonical(
        cls,
        table: Table,
        *,
        dim: int | None = None,
        head: HeadName | Mapping[str, HeadName] = "kernel",
        kernel: Kernel = Kernel(),
        ridge: float | Mapping[str, float] = 1.0,
        power: float = 1.0,
        criterion: Criterion = "maxvar",
        towers: Mapping[str, Tower] | None = None,
        reading: Reading = Reading(),
        seed: int = 0,
    ) -> Aligner:
        """An Aligner solved in closed form, by canonical analysis (`gramian.canonical`): one pass over the table, no training.

        `gramian.training.fit_canonical` chooses the options on a validation split.

        Args:
            table: the training items.
            dim: width d of the shared space; by default as many components as the items have.
            head: "linear", "kernel" or "residual", of every modality, or modality → its own.
            kernel: of heads "kernel".
            ridge: see `gramian.canonical.solve`.
            power: how much more the components count on which the modalities agree.
            criterion: "maxvar", "sumcor" or "genvar".
            towers: modality → the frozen tower of a column of raw cells; every such column needs one.
            reading: how raw cells are read.
            seed: of the landmarks.

        Returns:
            The Aligner, on the CPU, in evaluation mode.

        Raises:
            InputError: columns and towers that do not fit, and what `gramian.canonical.solve` refuses.

        >>> table = Table.from_columns({"a": torch.eye(4), "b": 2 * torch.eye(4).flip(1)})
        >>> bundle = Aligner.canonical(table, head="linear")(table)
        >>> bundle, bool(torch.allclose(bundle.column("a"), bundle.column("b"), atol=1e-5))
        (Bundle(4 items, 3 dimensions, torch.float32; a 4, b 4), True)
        """
        table = table.has_any()
        options: dict[str, Any] = {"head": head, "kernel": kernel, "towers": towers, "seed": seed}
        aligner = cls.for_table(table, dim=dim or 1, **options)
        rows = EncodedRows(aligner.towers, table, reading)
        solution = solve(moments_of(rows, aligner.named_heads()), dim, ridge=ridge, criterion=criterion)
        if rows.broken:
            logger.warning("%d cells cannot be read and count as missing: %s", len(rows.broken), summary(rows.broken))
        if dim is None:
            aligner = cls.for_table(table, dim=len(solution.values), rows=rows, **options)
        fill_heads(aligner.named_heads(), solution, power)
        return aligner.eval()

    def named_heads(self) -> dict[str, nn.Module]:
        """Modality → head."""
        return dict(zip(self.modalities, self.heads, strict=True))

    def collator(self) -> Collator:
        """Makes `Batch`es for this Aligner from rows of a table, in any process."""
        return self.towers.collator()

    def raw_modalities(self) -> tuple[str, ...]:
        """The modalities whose cells are raw."""
        return self.towers.raw_modalities()

    def check(self, table: Table, argument: str = "columns") -> None:
        """Compare the columns of a table with what the towers read, without reading a cell.

        Raises:
            InputError: an unknown modality, a wrong width, raw cells for features or features for raw cells.
        """
        self.towers.check(table, argument)

    def forward(
        self,
        columns: Batch | Table | Mapping[str, Any],
        *,
        present: Mapping[str, Tensor] | None = None,
        strict: bool = False,
    ) -> Bundle:
        """Project items into the shared space.

        Args:
            columns: a Batch or a Table; or name → (n, width) features, a sequence of features or raw cells with `None` for an
                empty one, or `None`. Absent modalities of the Aligner count as missing.
            present: name → (n,) bool, for (n, width) features with masked rows.
            strict: raise at a raw cell that cannot be read; otherwise it is missing in the Bundle, with a warning. A Batch has
                been read already, and lists such cells itself.

        Returns:
            A Bundle of n items over all modalities of the Aligner.

        Raises:
            InputError: an unknown modality, a wrong width, values that are not finite, an item with nothing present.
        """
        check_type("columns", columns, Mapping, Table, Batch)
        if isinstance(columns, Mapping):
            columns = self.collator().table(columns, present=present)
        elif present is not None:
            raise InputError("`present` goes with a dict of features; a Table or a Batch has masks of its own.")
        if isinstance(columns, Table):
            self.check(columns)
            empty = int((~columns.mask().any(1)).sum())
            if empty:
                raise InputError(f"`columns` has {empty} of {len(columns)} items with no modality present. Leave them out.")
            columns = self.collator()(columns, strict=strict)
            if columns.broken:
                logger.warning("%d cells cannot be read and count as missing: %s", len(columns.broken), summary(columns.broken))
        batch = columns.to(self.device)
        return self.project(batch, self.towers(batch))

    def project(self, batch: Batch, encodings: Mapping[str, tuple[Encoded, Tensor]]) -> Bundle:
        """Project what the towers made of a Batch, for those who need that as well.

        Args:
            batch: the items.
            encodings: of `towers(batch)`.

        Returns:
            A Bundle of the items over all modalities of the Aligner.

        Raises:
            InputError: a modality whose tokens are wanted and whose tower gives none.
        """
        rows: dict[str, Tensor | None] = {}
        masks: dict[str, Tensor] = {}
        tokens: dict[str, Tokens] = {}
        for name, head in zip(self.modalities, self.heads, strict=True):
            if name not in encodings:
                rows[name] = None
                if name in self.tokens:
                    nothing = torch.zeros(len(batch), 1, self.dim, device=self.device)
                    tokens[name] = Tokens(nothing, torch.zeros(len(batch), 1, dtype=torch.bool, device=self.device))
                continue
            encoded, mask = encodings[name]
            # Unit length to the full precision of the scores, under autocast too.
            projected = widened(head(encoded.vectors))
            index = (mask.nonzero().flatten(),)
            rows[name] = projected.new_zeros(len(batch), self.dim).index_put(index, projected)
            masks[name] = mask
            if name in self.tokens:
                tokens[name] = self._project_tokens(name, head, encoded, mask)
        if not masks:  # Nothing was readable: zero vectors tied to the heads, so that DDP's backward still runs.
            first = next(iter(rows))
            tie = sum((parameter.sum() for parameter in self.heads.parameters()), torch.zeros((), device=self.device)) * 0
            rows[first] = torch.zeros(len(batch), self.dim, device=self.device) + tie
            masks[first] = torch.zeros(len(batch), dtype=torch.bool, device=self.device)
        # Rows of a Batch may be empty, because their cells could not be read.
        check = not torch.is_grad_enabled() and bool(torch.stack([mask.cpu() for mask in masks.values()]).any(0).all())
        bundle = Bundle.from_dict(rows, present=masks, item_ids=batch.item_ids, check=check)
        return replace(bundle, tokens=tokens) if tokens else bundle

    def _project_tokens(self, name: str, head: nn.Module, encoded: Encoded, mask: Tensor) -> Tokens:
        if encoded.tokens is None:
            raise InputError(f"`tokens` names {name!r}, whose tower gives none.")
        values = unit(widened(head(encoded.tokens.values)))
        index = (mask.nonzero().flatten(),)
        spread = values.new_zeros(len(mask), *values.shape[1:]).index_put(index, values)
        present = mask.new_zeros(len(mask), values.shape[1]).index_put(index, encoded.tokens.present)
        return Tokens(spread, present)

    @torch.no_grad()
    def embed(
        self,
        table: Table | Loader,
        *,
        batch_size: int | None = None,
        reading: Reading = Reading(),
        broken: list[Broken] | None = None,
    ) -> Bundle:
        """Project a whole table without a graph, in evaluation mode; afterwards each module returns to its own mode.

        Args:
            table: the items; or a Loader of them, whose worker processes can be used again.
            batch_size: items at a time; 4,096 of features, 32 with raw cells.
            reading: how raw cells are read; a Loader has its own.
            broken: a list to add the cells to that could not be read; without one they are logged.

        Returns:
            A Bundle of the table's items over all modalities of the Aligner; cells that could not be read are missing.

        Raises:
            InputError: columns that do not fit; a cell that cannot be read, if the reading is strict.

        >>> table = Table.from_columns({"text": [[1.0, 2.0], None], "audio": [None, [3.0]]})
        >>> Aligner({"text": 2, "audio": 1}, dim=4).embed(table).present.tolist()
        [[True, False], [False, True]]
        """
        check_type("table", table, Table, Loader, fix="Table.from_columns makes one.")
        self.check(table.table if isinstance(table, Loader) else table)
        loader = table if isinstance(table, Loader) else Loader(table, self.collator(), reading)
        unread: list[Broken] = [] if broken is None else broken
        bundles: list[Bundle] = []
        with evaluating(self):
            for batch in loader.in_order(batch_size):
                bundles.append(self(batch))
                unread.extend(batch.broken)
        if broken is None and unread:
            logger.warning("%d cells cannot be read and count as missing: %s", len(unread), summary(unread))
        return Bundle.cat(bundles)

    @torch.no_grad()
    def encode(self, batch: Batch, names: Sequence[str] | None = None) -> Columns:
        """Vectors and masks of one Batch, on the CPU, in float32 whatever autocast computes in.

        Args:
            batch: the items, on any device.
            names: the modalities to give; by default all, whether the Batch has them or not.

        Returns:
            Modality → (n, dim) unit vectors, zero where missing, and the (n,) bool mask.
        """
        bundle = self(batch)
        return {name: (bundle.column(name).float().cpu(), bundle.has(name).cpu()) for name in names or self.modalities}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return device_of(self)

    def trainable_state(self) -> dict[str, Tensor]:
        """The part of the state that training may change: all but the frozen weights of towers that are not `Features`."""
        fixed = {
            f"towers.{i}.{name}"
            for i, tower in enumerate(self.towers.values())
            if not isinstance(tower, Features)
            for name, value in itertools.chain(tower.named_parameters(), tower.named_buffers() if tower.frozen() else ())
            if not value.requires_grad
        }
        return {name: value for name, value in self.state_dict().items() if name not in fixed}

    def save_pretrained(self, save_directory: str | Path, *, towers: Literal["auto", "reference", "value"] = "auto") -> None:
        """Write config, weights, processors and a model card to a folder.

        Args:
            save_directory: the folder.
            towers: "reference" writes the hub id of a tower's weights, and a fingerprint of them; "value" writes the weights,
                merged with an adapter; "auto" does the one for frozen weights from the hub, the other for trained ones and
                those from a folder, and writes adapters beside.

        Raises:
            InputError: towers that were trained, or are from a folder, by "reference"; a `save_directory` that is a file.
        """
        check_type("save_directory", save_directory, str, Path)
        saving.write(self, Path(save_directory), check_choice("towers", towers, ("auto", "reference", "value")))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        commit_message: str = "Upload an aligner of gramian",
    ) -> str:
        """Share the Aligner on the hub. Weights of towers that were loaded from a local folder are uploaded with it.

        Args:
            repo_id: on the hub; created if needed.
            private: whether a new repository is private.
            token: of the hub; by default that of the logged-in user.
            branch: to upload to; created if needed.
            commit_message: of the upload.

        Returns:
            The address of the commit.

        Raises:
            InputError: a name that is no hub id, no right to write there, or a hub that cannot be reached.
        """
        return saving.push(self, repo_id, private=private, token=token, branch=branch, commit_message=commit_message)

    @classmethod
    def from_pretrained(
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
            towers: modality → a tower to use instead of the one that was written; needed if that was of a class of your own,
                whose code is not in the file. Its weights are read from the file.
            revision: branch, tag or commit on the hub.
            cache_dir: where downloads are kept.
            force_download: fetch again what is in the cache.
            local_files_only: use the cache alone.
            token: for private repositories.

        Returns:
            The Aligner.

        Raises:
            InputError: neither a folder nor a model on the hub that can be fetched; files that are missing, damaged, of another
                kind or of another version.
        """
        check_type("pretrained_model_name_or_path", pretrained_model_name_or_path, str, Path)
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            options = {"cache_dir": cache_dir, "force_download": force_download, "local_files_only": local_files_only}
            folder = saving.download(str(pretrained_model_name_or_path), revision=revision, token=token, **options)
        saved = saving.read(folder, towers or {})
        with torch.device("meta"):
            aligner = cls(saved.modalities, saved.dim, matcher=saved.matcher, tokens=saved.tokens)
        saving.load_weights(aligner, folder)
        aligner.card = saved.card
        aligner.bank = saved.bank
        aligner.query_weights = saved.query_weights
        return aligner.eval()


def _modality(entry: Modality | Tower | int) -> Modality:
    if isinstance(entry, Modality):
        return entry
    return Modality(entry) if isinstance(entry, int) else Modality(tower=entry)
