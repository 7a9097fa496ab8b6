"""Pretrained encoders as towers: Hugging Face transformers and sentence-transformers; frozen, with an adapter, or trained."""

from gramian.model.encoders.base import Encoder, Mode, Writing, fingerprint
from gramian.model.encoders.released import ReleasedAudio, ReleasedText, ReleasedVision
from gramian.model.encoders.sentence_transformers import SentenceTransformers
from gramian.model.encoders.transformers import HuggingFace

__all__ = [
    "ENCODERS",
    "Encoder",
    "HuggingFace",
    "Mode",
    "ReleasedAudio",
    "ReleasedText",
    "ReleasedVision",
    "SentenceTransformers",
    "Writing",
    "fingerprint",
]

ENCODERS: dict[str, type[Encoder]] = {
    encoder.__name__: encoder for encoder in (HuggingFace, SentenceTransformers, ReleasedText, ReleasedVision, ReleasedAudio)
}
