"""Variables to start training from: what another run learned, or a file of weights."""

import logging
import pathlib

import jax

from jaxpose.convert import ConversionError, convert, convert_backbone, files, load_state_dict
from jaxpose.errors import CheckpointError, ConfigError
from jaxpose.methods.base import Method
from jaxpose.runs.reader import find_weights, open_network
from jaxpose.training import optim
from jaxpose.types import Variables
from jaxpose.zoo.opening import open_file
from jaxpose.zoo.recognition import UnknownNetworkError

logger = logging.getLogger(__name__)


def load_pretrained(source: str, method: Method) -> Variables:
    """Variables to start from, on the host.

    Args:
      source: folder of another run, whose newest good checkpoint counts; file that `jaxpose convert` or `jaxpose
        export-weights` wrote; or file or name of released weights, of a whole network or of a backbone.
      method: method that is to be trained, of which a file of a backbone gives that part.

    Raises:
      CheckpointError: there is no such thing, or it cannot be used.
    """
    file = find_weights(source)
    if file is None and not pathlib.Path(source).exists():
        raise CheckpointError(f"config.init_from: {source}: there is no such run or file, nor weights of this name")
    if file is None:
        return jax.device_get(open_network(source).variables)
    if file.suffix in files.FORMATS and files.are_paths(arrays := files.load_arrays(file)):
        return files.nested(arrays, file)
    try:
        return open_file(file)[2]
    except UnknownNetworkError as unknown:
        return _of_method(file, method, unknown)


def _of_method(file: pathlib.Path, method: Method, unknown: UnknownNetworkError) -> Variables:
    """The variables of a method, or of its backbone alone, from a file that no method of the library recognizes."""
    entries, problems = load_state_dict(file), []
    if method.original_names() is not None:
        try:
            return convert(entries, method)
        except ConversionError as error:
            problems.append(f"as all of the method: {error}")
    try:
        found = convert_backbone(entries, method).variables
    except ConversionError as error:
        problems.append(f"as its backbone: {error}")
        raise CheckpointError("\n".join([str(unknown), *problems])) from error
    logger.info("%s: is of no network with poses, and gives the backbone alone", file)
    return found


def merge_pretrained(variables: Variables, loaded: Variables, path: str) -> Variables:
    """`variables` with every leaf that `loaded` has.

    Raises:
      ConfigError: `loaded` has leaves that the network lacks, or of another shape.
    """
    flat, new = optim.flatten(variables), optim.flatten(loaded)
    unknown = sorted(set(new) - set(flat))
    misshapen = [f"{p} {new[p].shape}, not {flat[p].shape}" for p in new if p in flat and new[p].shape != flat[p].shape]
    if unknown or misshapen:
        raise ConfigError(
            f"config.init_from: {path} does not fit config.method: {len(unknown)} unknown leaves {unknown[:3]}, "
            f"{len(misshapen)} of another shape {misshapen[:3]}"
        )
    fresh = sorted({"/".join(p.split("/")[:2]) for p in flat if p not in new})
    logger.info("%s: took %d leaves; %d start fresh, in %s", path, len(new), len(flat) - len(new), fresh)
    return optim.unflatten(flat | new)
