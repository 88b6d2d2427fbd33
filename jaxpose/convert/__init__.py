"""Checkpoints of the original PyTorch implementations -> variables of this library."""

from jaxpose.convert.conversion import Conversion, ConversionError, convert, convert_backbone
from jaxpose.convert.files import load_variables, save_variables
from jaxpose.convert.state_dicts import load_state_dict

__all__ = [
    "Conversion",
    "ConversionError",
    "convert",
    "convert_backbone",
    "load_state_dict",
    "load_variables",
    "save_variables",
]
