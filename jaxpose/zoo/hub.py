"""The Hugging Face hub: downloading networks from repositories there, and uploading them.

    hf://ORG/NAME            the file model.safetensors of a repository
    hf://ORG/NAME@REVISION   the same of a branch, tag or commit

Such an address is taken wherever a file of weights is. The library huggingface_hub (pip install 'jaxpose[hub]') does
the work: its cache, its login and its environment variables (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE) count.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jaxpose
from jaxpose.errors import CheckpointError, ConfigError, JaxposeError, StorageError
from jaxpose.zoo.downloading import forbidding

FILE = "model.safetensors"
"""Name of the file of weights in a repository."""
CARD = "README.md"
"""Name of the file that a repository's page shows."""
SCHEME = "hf://"
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"
_REPOSITORY = r"[\w.-]+/[\w.-]+"


@dataclasses.dataclass(frozen=True)
class Address:
    """A repository of the hub.

    Attributes:
      repository: its name, "ORG/NAME".
      revision: branch, tag or commit; the newest commit if None.
    """

    repository: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """The repository's name without that of its owner."""
        return self.repository.partition("/")[2]

    def __str__(self) -> str:
        return SCHEME + self.repository + (f"@{self.revision}" if self.revision else "")


def parse(source: str | pathlib.Path) -> Address | None:
    """The repository that a source of weights names; None for any other source.

    Raises:
      ConfigError: the address is incomplete, or says more.

    Examples:
      >>> parse("hf://lab/pose@v2")
      Address(repository='lab/pose', revision='v2')
      >>> parse("runs/prtr")
    """
    text = str(source)
    if not text.startswith("hf:/"):
        return None
    found = re.fullmatch(rf"hf://?({_REPOSITORY})(?:@([^@\s]+))?", text)  # pathlib drops a slash
    if not found:
        raise ConfigError(f"{text}: is no address of the hub; expected hf://ORG/NAME or hf://ORG/NAME@REVISION")
    return Address(found[1], found[2])


def download(address: Address, file: str = FILE) -> pathlib.Path:
    """The path of a repository's file in the hub's cache; it is downloaded where it isn't there or is outdated.

    Raises:
      CheckpointError: it is not here, and cannot be downloaded.
    """
    offline = forbidding()

    def fetch(again: bool = False) -> pathlib.Path:
        options: dict[str, Any] = {"force_download": again, "local_files_only": bool(offline)}
        return pathlib.Path(api.hf_hub_download(address.repository, file, revision=address.revision, **options))

    api = _api(address, CheckpointError)
    with _told(address, file, CheckpointError):
        if _is_whole(path := fetch()):
            return path
        if not offline and _is_whole(path := fetch(again=True)):
            return path
    raise CheckpointError(f"{address}: {path} is damaged, and {f'{offline} is set' if offline else 'came so again'}")


def _is_whole(path: pathlib.Path) -> bool:
    """Whether a file is what it was in the repository; True where the cache doesn't tell.

    The cache calls large files by their SHA-256 and links them.
    """
    if not path.is_symlink() or not re.fullmatch(r"[0-9a-f]{64}", name := path.readlink().name):
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == name


def check_login(repository: str) -> None:
    """Raises an error if nothing can be uploaded to a repository.

    Raises:
      ConfigError: its name is none.
      StorageError: huggingface_hub is missing, or there is no token, or uploads are forbidden.
    """
    if not re.fullmatch(_REPOSITORY, repository):
        raise ConfigError(f"{repository!r} is no repository of the hub; expected ORG/NAME")
    api = _api(Address(repository), StorageError)
    import huggingface_hub

    if offline := forbidding():
        raise StorageError(f"{SCHEME}{repository}: {offline} is set, so nothing is uploaded")
    if not (api.token or huggingface_hub.get_token()):
        raise StorageError(f"{SCHEME}{repository}: the hub wants to know you: {LOG_IN}")


def upload(repository: str, files: Mapping[str, bytes | pathlib.Path], message: str, private: bool = False) -> str:
    """Writes files to a repository in one commit, and makes it where there is none.

    Args:
      repository: its name, "ORG/NAME".
      files: {name in the repository: content, or path of a file}.
      message: first line of the commit's message.
      private: whether only its owners see it.

    Returns:
      The address of its page.

    Raises:
      ConfigError: its name is none, or it is to be private and everybody sees it already.
      StorageError: it cannot be done.
    """
    check_login(repository)
    address = Address(repository)
    api = _api(address, StorageError)
    from huggingface_hub import CommitOperationAdd

    additions = [CommitOperationAdd(name, content) for name, content in files.items()]
    with _told(address, "", StorageError):
        page = str(api.create_repo(repository, private=private or None, exist_ok=True))
        is_public = private and not api.repo_info(repository).private
    if is_public:
        raise ConfigError(f"{address}: is there already, and everybody sees it; make it private at {page}/settings")
    with _told(address, "", StorageError):
        api.create_commit(repository, additions, commit_message=message)
    return page


# --- the library ---


def _api(address: Address, kind: type[JaxposeError]) -> Any:
    """The library's client."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise kind(f"{address}: pip install 'jaxpose[hub]' to use the Hugging Face hub") from error
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return huggingface_hub.HfApi(endpoint, library_name="jaxpose", library_version=jaxpose.__version__)


@contextlib.contextmanager
def _told(address: Address, file: str, kind: type[JaxposeError]) -> Iterator[None]:
    """Context in which whatever the library raises becomes an error of a `kind`, in one line that says what to do.

    Its own warnings about every new try are not shown.
    """
    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except Exception as error:
        raise kind(f"{address}: {_why(error, address, file)}") from error
    finally:
        log.setLevel(before)


def _why(error: Exception, address: Address, file: str) -> str:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.LocalEntryNotFoundError):
        if offline := forbidding():
            return f"{file} is not in the hub's cache, and {offline} is set, so nothing is downloaded"
        if isinstance(error.__cause__, Exception):
            return _why(error.__cause__, address, file)
    if isinstance(error, errors.GatedRepoError):
        return f"its owner gives it to those who ask on its page; do so, and {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return f"there is no such repository, or it is not for everybody: check the name, or {LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has no revision {address.revision!r}; its page lists what there is"
    if isinstance(error, errors.EntryNotFoundError):
        return f"has no file {file}, which `jaxpose push-to-hub` writes; download another file and name its path"
    if isinstance(error, errors.HFValidationError):
        return f"the hub allows no such name ({_line(error)})"
    if status == 403:
        return f"your token may not do this ({_line(error)}); {LOG_IN} with one that may"
    return f"the hub cannot be used now ({_line(error)})"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
