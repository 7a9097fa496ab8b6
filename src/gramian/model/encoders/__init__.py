"""Pretrained encoders as towers: Hugging Face transformers and sentence-transformers; frozen, with an adapter, or trained."""

from gramian.model.encoders.base import Encoder, Mode, Writing, fingerprint
from gramian.model.encoders.sentence_transformers import SentenceTransformers
from gramian.model.encoders.transformers import HuggingFace

__all__ = ["ENCODERS", "Encoder", "HuggingFace", "Mode", "SentenceTransformers", "Writing", "fingerprint"]

ENCODERS: dict[str, type[Encoder]] = {"HuggingFace": HuggingFace, "SentenceTransformers": SentenceTransformers}
