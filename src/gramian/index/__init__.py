"""Search: items with any subset of modalities, found by queries with any subset; exact on one machine, or on Qdrant."""

from gramian.index.answers import Answers, Diagnosis, Hit
from gramian.index.fields import Filter, Metadata
from gramian.index.flat import FlatIndex
from gramian.index.protocol import Index
from gramian.index.qdrant import QdrantIndex

__all__ = ["Answers", "Diagnosis", "Filter", "FlatIndex", "Hit", "Index", "Metadata", "QdrantIndex"]
