"""The papers behind scores and losses, as data, for model cards, documentation pages and BibTeX.

An unknown field is None. `Score.papers` and `Loss.papers` name the papers of each score and loss.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Paper"]


@dataclass(frozen=True)
class Paper:
    """One paper, and how to cite it.

    Attributes:
        name: what its method is called.
        year: of the venue, or of arXiv where there is none.
        title: of the paper.
        author: given and family name of the first author.
        venue: conference or journal, abbreviated.
        arxiv: arXiv number.

    >>> print(GRAM, TRIANGLE, sep="; ")
    GRAM, arXiv 2412.11959; TRIANGLE, arXiv 2509.24734
    """

    name: str
    year: int
    title: str | None = None
    author: str | None = None
    venue: str | None = None
    arxiv: str | None = None

    def __str__(self) -> str:
        """The name, and the shortest reference to the paper."""
        return f"{self.name}, {self._number() or self._published()}"

    def cite(self) -> str:
        """One line for a list of references.

        >>> PMRL.cite()
        'PMRL: Liu et al., "Principled Multimodal Representation Learning", TPAMI 2026, arXiv 2507.17343'
        """
        parts = (
            f"{self.name}: {self.author.split()[-1]} et al." if self.author else self.name,
            f'"{self.title}"' if self.title else None,
            self._published(),
            self._number(),
        )
        return ", ".join(part for part in parts if part)

    def bibtex(self) -> str:
        """The BibTeX entry; its key joins the author's family name, the year and the method's name.

        >>> print(HYPERGRAM.bibtex())
        @misc{hypergram2026,
            title = {HyperGRAM},
            year = {2026},
            howpublished = {CVPR},
        }
        """
        key = f"{self.author.split()[-1]}{self.year}{self.name}" if self.author else f"{self.name}{self.year}"
        fields = {
            "title": self.title or self.name,
            "author": f"{self.author} and others" if self.author else None,
            "year": str(self.year),
            "howpublished": self.venue,
            "eprint": self.arxiv,
            "archivePrefix": "arXiv" if self.arxiv else None,
        }
        lines = [f"    {field} = {{{value}}}," for field, value in fields.items() if value]
        return "\n".join([f"@misc{{{key.lower()},", *lines, "}"])

    def _published(self) -> str:
        return f"{self.venue} {self.year}" if self.venue else str(self.year)

    def _number(self) -> str | None:
        return f"arXiv {self.arxiv}" if self.arxiv else None


CENTROBIND = Paper(
    "CentroBind",
    2024,
    title="Anchors Aweigh! Sail for Optimal Unified Multi-Modal Representations",
    author="Minoh Jeong",
    arxiv="2410.02086",
)
CLIP = Paper(
    "CLIP",
    2021,
    title="Learning Transferable Visual Models From Natural Language Supervision",
    author="Alec Radford",
    venue="ICML",
    arxiv="2103.00020",
)
COLBERT = Paper(
    "ColBERT",
    2020,
    title="ColBERT: Efficient and Effective Passage Search via Contextualized Late Interaction over BERT",
    author="Omar Khattab",
    venue="SIGIR",
    arxiv="2004.12832",
)
GRADCACHE = Paper(
    "GradCache",
    2021,
    title="Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    author="Luyu Gao",
    arxiv="2101.06983",
)
GRAM = Paper(
    "GRAM",
    2025,
    title="Gramian Multimodal Representation Learning and Alignment",
    author="Giordano Cicchetti",
    venue="ICLR",
    arxiv="2412.11959",
)
HYPERGRAM = Paper("HyperGRAM", 2026, venue="CVPR")
IMAGEBIND = Paper(
    "ImageBind",
    2023,
    title="ImageBind: One Embedding Space To Bind Them All",
    author="Rohit Girdhar",
    venue="CVPR",
    arxiv="2305.05665",
)
PMRL = Paper(
    "PMRL",
    2026,
    title="Principled Multimodal Representation Learning",
    author="Xiaohao Liu",
    venue="TPAMI",
    arxiv="2507.17343",
)
SCALAR = Paper("SCALAR", 2026)
SIGLIP = Paper(
    "SigLIP",
    2023,
    title="Sigmoid Loss for Language Image Pre-Training",
    author="Xiaohua Zhai",
    venue="ICCV",
    arxiv="2303.15343",
)
SYMILE = Paper(
    "Symile",
    2024,
    title="Contrasting with Symile: Simple Model-Agnostic Representation Learning for Unlimited Modalities",
    author="Adriel Saporta",
    venue="NeurIPS",
    arxiv="2411.01053",
)
TRIANGLE = Paper(
    "TRIANGLE",
    2025,
    title="A TRIANGLE Enables Multimodal Alignment Beyond Cosine Similarity",
    author="Giordano Cicchetti",
    venue="NeurIPS",
    arxiv="2509.24734",
)
SUMCOR = Paper("SUMCOR", 1961, title="Relations among m sets of measures", venue="Psychometrika")
_KETTENRING = "Canonical analysis of several sets of variables"
MAXVAR = Paper("MAXVAR", 1971, title=_KETTENRING, venue="Biometrika")
GENVAR = Paper("GENVAR", 1971, title=_KETTENRING, venue="Biometrika")
