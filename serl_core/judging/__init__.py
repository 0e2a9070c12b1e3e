"""Judges made from recorded episodes: their frames, the training of classifiers, their files, and what uses them."""
