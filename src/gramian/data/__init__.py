"""Tables of features: a column a modality, each of its own width, with what is missing; read from files or shipped."""

from gramian.data.tables import EMBEDDED, ENDINGS, Table, load

__all__ = ["EMBEDDED", "ENDINGS", "Table", "load"]
