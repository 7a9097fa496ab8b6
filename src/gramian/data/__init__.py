"""Tables: one column per modality, of features or raw cells, some of them empty; read from files, the hub or the package."""

from gramian.data.batches import Reading
from gramian.data.cells import Cells
from gramian.data.load import EMBEDDED, length, load, stream
from gramian.data.table import ENDINGS, Table

__all__ = ["EMBEDDED", "ENDINGS", "Cells", "Reading", "Table", "length", "load", "stream"]
