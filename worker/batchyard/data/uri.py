"""Datasets named by URI: which reader is for which."""

from __future__ import annotations

import posixpath
from urllib.parse import urlsplit

from batchyard.data.dataset import Dataset
from batchyard.data.errors import DataError
from batchyard.data.image_folder import load_images
from batchyard.data.location import Location
from batchyard.data.npz import load_npz
from batchyard.data.options import Options
from batchyard.data.parquet import load_parquet
from batchyard.data.tree import ARCHIVES

NPZ, PARQUET = ".npz", ".parquet"


def load_uri(uri: str, options: Options) -> Dataset:
    """The dataset at `uri`: a folder or archive of image files, an NPZ file, Parquet. Raises DataError."""
    location, name = Location(uri), _name(uri)
    if location.is_folder:
        parquet = any(file.endswith(PARQUET) for file in location.files)
        return load_parquet(name, location, options) if parquet else load_images(name, location, options)
    path = urlsplit(uri).path.lower()
    if path.endswith(PARQUET):
        return load_parquet(name, location, options)
    if path.endswith(NPZ):
        return load_npz(name, location, options)
    if path.endswith(ARCHIVES):
        return load_images(name, location, options)
    known = f"a folder, or a file that ends in {', '.join((*ARCHIVES, NPZ, PARQUET))}"
    raise DataError(f"data.dataset: {uri} is of no form known; expected {known}", "name the file by its ending")


def _name(uri: str) -> str:
    """The last part of the URI, for people."""
    return posixpath.basename(urlsplit(uri).path.rstrip("/")) or uri
