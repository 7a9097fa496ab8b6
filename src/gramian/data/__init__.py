"""Tables: a column a modality, of features or of raw cells, with what is missing; read from files or shipped. Media files."""

from gramian.data.batches import Reading
from gramian.data.cells import Cells
from gramian.data.table import EMBEDDED, ENDINGS, Table, load, stream

__all__ = ["EMBEDDED", "ENDINGS", "Cells", "Reading", "Table", "load", "stream"]
