"""DSNT: numerical coordinate regression (2018)."""

from jaxpose.methods.dsnt.method import DSNT

__all__ = ["DSNT"]
