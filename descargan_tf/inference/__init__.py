"""Trained networks as they answer fastest: normalisation folded, fewer operations; the same answers up to rounding."""
