"""Data sets that ship, or can be made: where they come from, and from raw files to a Table."""
