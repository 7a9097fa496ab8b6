"""Use of this library inside others: losses for Sentence Transformers, a model for `transformers.Trainer`, an encoder for mteb.

Each module needs its library installed; none is imported from here.
"""
