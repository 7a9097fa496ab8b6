"""Data sets that ship with the package or can be made: their source, and their raw files as a Table."""
