"""Sharing what a run learned on the Hugging Face hub."""

import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax

from jaxpose.runs.reader import open_network
from jaxpose.zoo import hub, weights_file
from jaxpose.zoo.model_card import model_card


def push_to_hub(
    source: str | pathlib.Path,
    repository: str,
    *,
    private: bool = False,
    licence: str = "",
    dtype: str = "float32",
    step: int | None = None,
    changes: Mapping[str, Any] | None = None,
    like: str = "",
) -> str:
    """Uploads a network to the Hugging Face hub, from where `jaxpose.load("hf://ORG/NAME")` opens it.

    The repository gets a file of weights, model.safetensors, and a page that is made from it, README.md, in one commit;
    earlier ones stay in its history.

    Args:
      source: what `jaxpose.load` opens: the folder of a run, a file of weights, or their name in the zoo.
      repository: its name on the hub, "ORG/NAME"; made where there is none.
      private: whether only its owners see it.
      licence: the licence's identifier on the hub, such as "apache-2.0"; its page names none if empty.
      dtype: of the parameters in the file: "float32", "float16" or "bfloat16".
      step: step of the checkpoint; the newest good one if None.
      changes: {field: value} of fields of the config that are to differ.
      like: config of released weights; see `jaxpose.load`.

    Returns:
      The address of its page.

    Raises:
      CheckpointError, ConfigError: the source cannot be opened, or the name is none.
      StorageError: nothing can be uploaded; the message says why.

    Examples:
      >>> push_to_hub("runs/prtr", "lab/prtr", licence="apache-2.0")  # doctest: +SKIP
      'https://huggingface.co/lab/prtr'
    """
    hub.check_login(repository)
    content = open_network(source, step, changes, like)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / hub.FILE
        weights_file.write(path, content.config, jax.device_get(content.variables), content.about, dtype)
        written: Any = weights_file.read(path)
        files = {hub.FILE: path, hub.CARD: model_card(written, repository, licence).encode()}
        return hub.upload(repository, files, f"Weights of {content.about.source}", private)
