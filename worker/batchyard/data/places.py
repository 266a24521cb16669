"""Where a dataset's files lie: in one of the data folders, or fetched into the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from batchyard.data.errors import DataError
from batchyard.data.fetch import Published, fetch
from batchyard.data.options import Options

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to look for."""

    dataset: str
    places: tuple[str, ...]
    """Looked in below each data folder, in this order."""
    wanted: str
    """The files, for people."""
    published: Mapping[str, Published]
    """What is fetched where no folder has it."""


def find(
    search: Search, folders: Sequence[str], options: Options, look: Callable[[Path], Found | None]
) -> tuple[Found, Path]:
    """What `look` finds in the first place that has it, and that place. Raises DataError naming every place.

    `look` returns None where a folder has nothing of the dataset, and raises DataError where it has but a part of it.
    """
    places = [Path(folder) / place for folder in folders for place in search.places]
    fetched = options.folder / "datasets" / search.dataset
    for place in _existing([*places, fetched]):
        if (found := look(place)) is not None:
            return found, place
    looked = ", ".join(str(place) for place in places) or "no folder: none is configured"
    cause = f"dataset {search.dataset}: {search.wanted} not found; looked in {looked}"
    put = f"put {search.wanted} in one of these folders, or " if folders else ""
    next_step = (
        f"{put}start the service with `batchyard up --datasets FOLDER`, where FOLDER has them, or use "
        "data.dataset: digits, which needs no file"
    )
    if not options.fetch:
        raise DataError(cause, next_step)
    options.log(f"dataset {search.dataset}: in no data folder; fetching it into {fetched}")
    try:
        fetch(search.published, fetched)
    except DataError as error:
        raise DataError(f"{cause}; {error.cause}", next_step) from error
    if (found := look(fetched)) is None:
        raise DataError(cause, next_step)
    return found, fetched


def _existing(places: Sequence[Path]) -> Iterator[Path]:
    return (place for place in places if place.is_dir())
