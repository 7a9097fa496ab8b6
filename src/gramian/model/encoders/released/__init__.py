"""The released towers of GRAM, PMRL and VAST: EVA01-CLIP-g/14, BEATs and BERT, with their matching head."""

from gramian.model.encoders.released.checkpoint import Checkpoint, open_checkpoint
from gramian.model.encoders.released.keys import KeyReport
from gramian.model.encoders.released.matcher import ReleasedMatcher
from gramian.model.encoders.released.towers import ReleasedAudio, ReleasedText, ReleasedVision

__all__ = ["Checkpoint", "KeyReport", "ReleasedAudio", "ReleasedMatcher", "ReleasedText", "ReleasedVision", "open_checkpoint"]
