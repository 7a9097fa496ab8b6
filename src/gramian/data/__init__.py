"""Tables: one column per modality, of features or of raw cells, with what is missing; read from files or shipped. Media."""

from gramian.data.batches import Reading
from gramian.data.cells import Cells
from gramian.data.load import EMBEDDED, load, stream
from gramian.data.table import ENDINGS, Table

__all__ = ["EMBEDDED", "ENDINGS", "Cells", "Reading", "Table", "load", "stream"]
