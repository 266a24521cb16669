"""Published datasets fetched from where their authors (or a well-known mirror) put them, each file checked by sha256.

The digests are those of the published files; a file whose digest differs is refused, whatever the server says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from batchyard.data.errors import DataError
from batchyard.data.files import locked, replacing

TIMEOUT = 10.0
"""Seconds without a byte before a server counts as gone."""
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Published:
    """A file that is published."""

    url: str
    sha256: str


def _files(base: str, **digests: str) -> dict[str, Published]:
    return {name: Published(url=f"{base}/{name}", sha256=digest) for name, digest in digests.items()}


MNIST = _files(
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    **{
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
)
FASHION_MNIST = _files(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    **{
        "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)
CIFAR10 = _files(
    "https://www.cs.toronto.edu/~kriz",
    **{"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
)
CIFAR100 = _files(
    "https://www.cs.toronto.edu/~kriz",
    **{"cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"},
)


def fetch(files: Mapping[str, Published], folder: Path) -> None:
    """Brings `files` (name to where it is published) into `folder`; what is there already stays.

    Several processes may call it at once: one fetches and the others wait. Raises DataError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        for name, published in files.items():
            if not (folder / name).is_file():
                _fetch(published, folder / name)


def _fetch(published: Published, path: Path) -> None:
    import http.client
    import urllib.request  # here: it takes a twentieth of a second, and is seldom needed

    digest = hashlib.sha256()
    try:
        with replacing(path) as partial, partial.open("wb") as file:
            with urllib.request.urlopen(published.url, timeout=TIMEOUT) as answer:
                while block := answer.read(CHUNK):
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != published.sha256:
                cause = f"{published.url}: its content has sha256 {digest.hexdigest()}; expected {published.sha256}"
                raise DataError(cause, "nothing was kept; try again, or put the file into a data folder yourself")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        cause = f"{published.url} cannot be fetched: {reason}"
        raise DataError(cause, f"put {path.name} into a data folder yourself") from error
