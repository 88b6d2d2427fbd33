"""ViTPose: a plain vision transformer and a light head (NeurIPS 2022), and its experts for several data sets (2024)."""

from jaxpose.methods.vitpose.method import ViTPose

__all__ = ["ViTPose"]
