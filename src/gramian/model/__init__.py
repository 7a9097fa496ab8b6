"""Towers read one modality's data, heads project into the shared space, the `Aligner` joins them: dict in, Bundle out."""

from gramian.data.batches import Batch
from gramian.data.cells import Broken
from gramian.model.aligner import Aligner
from gramian.model.encoders import HuggingFace, ReleasedAudio, ReleasedText, ReleasedVision, SentenceTransformers
from gramian.model.encoders.released import ReleasedMatcher
from gramian.model.heads import HEADS, Modality, build_head
from gramian.model.joined import joined
from gramian.model.joint import JointHeads
from gramian.model.matcher import Matcher
from gramian.model.towers import Custom, Encoded, Features, Tower, Towers

__all__ = [
    "HEADS",
    "Aligner",
    "Batch",
    "Broken",
    "Custom",
    "Encoded",
    "Features",
    "HuggingFace",
    "JointHeads",
    "Matcher",
    "Modality",
    "ReleasedAudio",
    "ReleasedMatcher",
    "ReleasedText",
    "ReleasedVision",
    "SentenceTransformers",
    "Tower",
    "Towers",
    "build_head",
    "joined",
]
