"""Finding the file of released weights on this machine, or fetching it."""

import importlib.resources
import logging
import pathlib

from jaxpose.errors import CheckpointError
from jaxpose.zoo import hub, table
from jaxpose.zoo.downloading import download
from jaxpose.zoo.opening import check_digest
from jaxpose.zoo.table import Weights

logger = logging.getLogger(__name__)


def find_file(row: Weights) -> pathlib.Path:
    """The file of released weights: in the folder for weights, or in the hub's cache, or downloaded there.

    Raises:
      CheckpointError: it is not here, and cannot be downloaded; the message says what to download and where to put it.
    """
    if found := sorted(place(row).parent.glob(place(row).name)):
        check_digest(found[0], row)
        return found[0]
    if row.hub:
        return _from_hub(row)
    if is_downloaded(row):
        return _from_url(row)
    raise CheckpointError(f"{row.name}: {how_to_get(row)}")


def is_downloaded(row: Weights) -> bool:
    """Whether the file is fetched from its publisher: one whose address and digest are known."""
    return bool(row.url and row.sha256)


def place(row: Weights) -> pathlib.Path:
    """The path at which the file is looked for; files of one name for many weights lie in a folder of their own."""
    if row.is_packaged:
        return pathlib.Path(str(importlib.resources.files("jaxpose.zoo"))) / "marionettes" / row.file
    return table.folder() / row.name / row.file if row.hub else table.folder() / row.file


def how_to_get(row: Weights) -> str:
    """What to download and where to put it, in a sentence."""
    if row.is_packaged:
        return f"it comes with jaxpose; install that again if {place(row)} is missing"
    where = f"{row.url or row.page} ({row.licence})"
    if row.is_one_file:
        return f"download {row.file} from {where} and put it at {place(row)}"
    return f"download a file like {row.file} from {where} and put it into {place(row).parent}"


def _from_url(row: Weights) -> pathlib.Path:
    path = place(row)
    logger.info("%s: downloading %s -> %s", row.name, row.url, path)
    try:
        got = download(row.url, path)
    except CheckpointError as error:
        raise CheckpointError(f"{row.name}: cannot be downloaded: {error}. Else {how_to_get(row)}") from error
    try:
        check_digest(got, row)
    except CheckpointError:
        got.unlink()
        raise
    return got.replace(path)


def _from_hub(row: Weights) -> pathlib.Path:
    try:
        return hub.download(hub.Address(row.hub), row.file)
    except CheckpointError as error:
        raise CheckpointError(f"{row.name}: {error}. Else {how_to_get(row)}") from error
