"""Reads IDX files of unsigned bytes, plain or gzip: the format MNIST is distributed in.

The format: two zero bytes, the element type (8: unsigned byte), the number of dimensions, then each dimension as a
big-endian 32-bit number, then the elements, last dimension fastest (yann.lecun.com/exdb/mnist, "The IDX file format").
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batchyard.data.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 8
AGAIN = "get the file again, or remove it"


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in `path`, which must have `dimensions` dimensions. Raises DataError naming the file."""
    content = _content(path)
    expected = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if (magic := content[:4]) != expected:
        cause = f"{path}: the file begins with {magic.hex(' ') or 'nothing'}; expected {expected.hex(' ')}"
        raise DataError(f"{cause} (IDX, unsigned bytes, {dimensions} dimensions)", AGAIN)
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(f"{path} is truncated: {len(content)} bytes; the header alone takes {header}", AGAIN)
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    if len(content) != (size := header + math.prod(shape)):
        state = "truncated" if len(content) < size else "longer than its header says"
        dims = " x ".join(str(side) for side in shape)
        raise DataError(f"{path} is {state}: {len(content)} bytes; expected {size} for {dims}", AGAIN)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
    except EOFError as error:
        raise DataError(f"{path} is truncated: its gzip stream ends too early", AGAIN) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}", AGAIN) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "make it readable for the workers") from error
