"""Documents of a dataset on the Hugging Face hub, or on the mirror that `HF_ENDPOINT` names.

The `datasets` library finds the files and reads them. It retries an unreachable hub for a long time, so the
endpoint is asked once, with a limit on the wall clock, before the library is. A dataset much larger than what
is wanted is streamed, so that only the row groups that are used cross the network; a small one is downloaded
into the library's cache, from where `HF_HUB_OFFLINE=1` reads it again without any network.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from distillation.config import CorpusSettings, HubSource
from distillation.corpus.documents import Document
from distillation.corpus.left_out import BadFileError, Tally
from distillation.corpus.sources.files import Row, column_of, documents_of, missing_column
from distillation.errors import CorpusError, one_line, shorten
from distillation.hub import HubReach

DOWNLOAD_WHOLE_BYTES = 64_000_000
"""Up to this size together, files are downloaded and cached; beyond, streamed if little of them is wanted."""
MAX_REASON = 300
"""Characters of what the library says in an error: it lists what there is instead."""


def iterate_hub(
    source: HubSource, settings: CorpusSettings, reach: HubReach, tally: Tally
) -> Iterator[Document]:
    """Yield the documents of one split of a hub dataset in its own order.

    Raises:
        CorpusError: the hub does not answer, or has no such dataset, revision, split, file or column.
    """
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        reason = reach.why_unreachable()
        if reason is not None:
            raise CorpusError(reason)
    dataset = _open_dataset(source, settings, is_offline=constants.HF_HUB_OFFLINE)
    try:
        yield from documents_of(_rows(dataset, source), source, f"{source.path}/{source.split}", tally)
    except BadFileError as bad:
        raise CorpusError(f"split {source.split}: {bad.cause}; {bad.detail}") from None
    if not tally.num_given and tally.entries:
        raise CorpusError(tally.reasons())


def _open_dataset(
    source: HubSource, settings: CorpusSettings, *, is_offline: bool
) -> Iterable[dict[str, Any]]:
    """Return the rows of the split, read remotely or from the cache."""
    import datasets

    place = "the cache, as HF_HUB_OFFLINE is set" if is_offline else "the hub"
    try:
        builder = datasets.load_dataset_builder(
            source.path,
            name=source.name,
            revision=source.revision,
            data_files={source.split: list(source.data_files)} if source.data_files else None,
        )
        _check_revision(builder.cache_dir, source.revision)
        if not is_offline:
            urls = _urls_to_stream(builder, source, settings)
            if urls and all(url.endswith(".parquet") for url in urls):
                return _parquet_rows(urls, source)
            if urls:
                return builder.as_streaming_dataset(split=source.split)
        builder.download_and_prepare()
        return builder.as_dataset(split=source.split)
    except CorpusError:
        raise
    except Exception as error:
        # The library raises a dozen unrelated types for "not there"; each is the user's to mend.
        raise CorpusError(
            f"dataset cannot be loaded from {place} ({shorten(one_line(error), MAX_REASON)}); "
            "check path, name, split, revision and data_files"
        ) from error


def _check_revision(cache_dir: str, revision: str) -> None:
    """Refuse another commit than the pinned one: the library falls back to whatever is cached."""
    if re.fullmatch("[0-9a-f]{40}", revision) and revision not in cache_dir:
        raise CorpusError(
            f"revision = {revision!r} is not to be had, only another cached one; check it, or HF_HUB_OFFLINE"
        )


def _urls_to_stream(builder: Any, source: HubSource, settings: CorpusSettings) -> list[str]:
    """Return the split's files if they are large and more than what is wanted, else nothing."""
    files = builder.config.data_files
    if not files:
        return []
    if source.split not in files:
        raise CorpusError(f"no split = {source.split!r}; the splits are: {', '.join(map(str, files))}")
    num_wanted = settings.max_train_bytes
    if num_wanted is None:
        return []
    from huggingface_hub import HfFileSystem

    file_system = HfFileSystem()
    urls = [str(url) for url in files[source.split]]
    num_bytes = sum(file_system.info(url)["size"] or 0 for url in urls)
    return urls if num_bytes > max(DOWNLOAD_WHOLE_BYTES, num_wanted) else []


def _parquet_rows(urls: list[str], source: HubSource) -> Iterator[dict[str, Any]]:
    """Yield rows one row group at a time: the library's own streaming reads far ahead of what is used."""
    import pyarrow.parquet as pq
    from huggingface_hub import HfFileSystem

    file_system = HfFileSystem()
    column, _ = column_of(source)
    for url in urls:
        with file_system.open(url, "rb", cache_type="none") as remote, pq.ParquetFile(remote) as file:
            if column not in file.schema_arrow.names:
                raise missing_column(source, file.schema_arrow.names)
            for group in range(file.num_row_groups):
                # One column gains nothing from threads, and one that still holds a buffer of `remote` when
                # Python ends aborts the process (apache/arrow issue 45214).
                yield from file.read_row_group(group, columns=[column], use_threads=False).to_pylist()


def _rows(dataset: Iterable[dict[str, Any]], source: HubSource) -> Iterator[Row]:
    where = f"split {source.split}"
    column, _ = column_of(source)
    iterator = iter(dataset)
    for number in itertools.count(1):
        try:
            row = next(iterator)
        except StopIteration:
            return
        except BadFileError:
            raise
        except Exception as error:
            raise CorpusError(
                f"reading the dataset failed ({shorten(one_line(error), MAX_REASON)}); try again"
            ) from error
        if column not in row:
            raise missing_column(source, row)
        yield row[column], f"{where} row {number}"
