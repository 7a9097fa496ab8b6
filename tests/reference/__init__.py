"""Literal, slow float64 transcriptions of the published formulas: plain loops that share no code with the library.

An item is a (k, d) tensor of its k present unit vectors, so that a missing modality is simply not there.
"""
