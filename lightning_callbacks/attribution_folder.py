"""A folder of token attributions: names of its files, what it was made with, what is done, and how it is read.

Beside Parquet files, one for each process and batch, there are hidden ones, which Parquet readers pass over:
``.manifest.json`` says what was explained and how, ``.run`` names the run that may write, and others are not yet
complete.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lightning_callbacks.plain_settings import differences, with_present_names

Bools = npt.NDArray[np.bool_]
KEYS = ("dataloader", "index")
_MOST_CHANGES = 4  # that are told
_FORMAT = 1
_NAME = re.compile(r"attributions-r\d{5}-d\d{3}-b\d{8}-[0-9a-f]{16}\.parquet")
_MANIFEST, _RUN, _UNFINISHED = ".manifest.json", ".run", ".tmp"


class AttributionFolder:
    """A folder on one machine, or on a file system that all machines of a run share.

    Args:
        path: of the folder, which need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def begin(self, settings: dict[str, Any], samples: Sequence[int]) -> str:
        """Begin a run, or go on with one that was cut short. Runs that are still writing will stop.

        Args:
            settings: of the model and the method, as JSON has them.
            samples: how many there are in each data loader.

        Returns:
            The run's name, which :meth:`write` wants.

        Raises:
            ValueError: a folder with other files, damaged ones, or ones of other settings; the error names them.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        manifest = _manifest(settings, samples)
        there = self.manifest()
        changed = differences(with_present_names(there), manifest) if there else []
        if changed and self._visible():
            more = f"; and {len(changed) - _MOST_CHANGES} more" if len(changed) > _MOST_CHANGES else ""
            raise ValueError(
                f"{self.path} was begun with other settings, and results would mix: "
                f"{'; '.join(changed[:_MOST_CHANGES])}{more}. Give another folder, or the former settings"
            )
        self._check_names(begun=there is not None)
        run = uuid4().hex
        self._replace(_RUN, run.encode())
        if there != manifest:
            self._replace(_MANIFEST, json.dumps(manifest, indent=2).encode())
        for unfinished in self.path.glob(f".*{_UNFINISHED}"):
            unfinished.unlink(missing_ok=True)
        return run

    def is_begun(self, settings: dict[str, Any], samples: Sequence[int]) -> bool:
        """Whether the folder can be seen and was begun with these settings."""
        return self.manifest() == _manifest(settings, samples)

    def done(self) -> list[Bools]:
        """For each data loader, which of its samples are explained, bool (samples,).

        Raises:
            FileNotFoundError, ValueError: no such folder, or files that are damaged or belong to other data.
        """
        done = [np.zeros(count, dtype=bool) for count in self._manifest_or_raise()["samples"]]
        for path, table in self._tables(KEYS):
            loaders, indices = (table[name].to_numpy() for name in KEYS)
            for loader in np.unique(loaders):
                mine = indices[loaders == loader]
                if not (0 <= loader < len(done) and mine.min() >= 0 and mine.max() < len(done[loader])):
                    raise ValueError(f"{path} holds samples that the data of {self.path} do not have: delete it")
                done[loader][mine] = True
        return done

    def write(self, table: pa.Table, *, run: str, rank: int, dataloader: int, batch: int) -> Path:
        """Write a table under its final name once it is complete.

        Args:
            table: with the columns ``dataloader`` and ``index``.
            run: what :meth:`begin` returned.
            rank, dataloader, batch: for the file's name.

        Raises:
            RuntimeError: another run has begun to write to the folder.
        """
        digest = sha256(table["index"].to_numpy().astype(np.int64).tobytes()).hexdigest()[:16]
        name = f"attributions-r{rank:05d}-d{dataloader:03d}-b{batch:08d}-{digest}.parquet"
        written = pa.BufferOutputStream()
        pq.write_table(table, written)
        if (self.path / _RUN).read_text() != run:
            raise RuntimeError(
                f"another run has begun to write to {self.path}, so this one stops; what it wrote is kept"
            )
        return self._replace(name, written.getvalue())

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, sorted by data loader and index, none twice.

        Args:
            columns: which are read beside ``dataloader`` and ``index``; None for all.

        Raises:
            FileNotFoundError, ValueError: as :meth:`done`; a column that is not there; an empty folder.
        """
        names = None if columns is None else list(dict.fromkeys((*KEYS, *columns)))
        tables = [table for _, table in self._tables(names)]
        if not tables:
            raise ValueError(f"{self.path} holds no attributions yet: run trainer.predict with an AttributionWriter")
        merged = pa.concat_tables(tables, promote_options="permissive")
        absent = sorted(set(names or ()) - set(merged.column_names))
        if absent:
            raise ValueError(f"{self.path} has no columns {absent}: expected some of {_columns(self._visible()[0])}")
        merged = merged.take(np.lexsort([merged[name].to_numpy() for name in reversed(KEYS)]))
        keys = np.stack([merged[name].to_numpy() for name in KEYS])
        fresh = np.ones(len(merged), dtype=bool)
        fresh[1:] = (keys[:, 1:] != keys[:, :-1]).any(0)  # a sampler may draw twice
        return merged if fresh.all() else merged.filter(fresh)

    def manifest(self) -> dict[str, Any] | None:
        """What the folder was begun with; None if it was not.

        Raises:
            ValueError: a manifest that is damaged or of another format.
        """
        try:
            manifest = json.loads((self.path / _MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise ValueError(
                f"{self.path / _MANIFEST} is damaged, or of another version of this library (format {_FORMAT} is "
                "expected): give another folder"
            )
        return manifest

    def _manifest_or_raise(self) -> dict[str, Any]:
        manifest = self.manifest()
        if manifest is None:
            raise FileNotFoundError(
                f"{self.path} is no folder of attributions: expected the hidden file {_MANIFEST} there, "
                "as AttributionWriter leaves it (copy whole folders)"
            )
        return manifest

    def _check_names(self, *, begun: bool) -> None:
        others = [path.name for path in self._visible() if not (begun and _NAME.fullmatch(path.name))]
        if others:
            raise ValueError(
                f"{self.path} holds {', '.join(others[:3])}{' …' * (len(others) > 3)}, which "
                f"{'no AttributionWriter wrote' if begun else f'belongs to no run ({_MANIFEST} is missing)'}: give an "
                "empty folder, or one that does not exist yet"
            )

    def _visible(self) -> list[Path]:
        return sorted(path for path in self.path.iterdir() if not path.name.startswith("."))

    def _tables(self, columns: Sequence[str] | None) -> Iterator[tuple[Path, pa.Table]]:
        self._manifest_or_raise()
        self._check_names(begun=True)
        paths = self._visible()
        with ThreadPoolExecutor() as pool:
            yield from zip(paths, pool.map(lambda path: _table(path, columns), paths), strict=True)

    def _replace(self, name: str, content: Any) -> Path:
        """Write a file that is there as a whole or not at all, even if the machine stops."""
        path = self.path / name
        unfinished = self.path / f".{name}.{uuid4().hex[:8]}{_UNFINISHED}"
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return unfinished.replace(path)


def read_attributions(
    folder: str | os.PathLike[str], *, columns: Sequence[str] | None = None, complete: bool = False
) -> pd.DataFrame:
    """The attributions in a folder that :class:`AttributionWriter` wrote, merged over processes and sorted.

    Args:
        folder: its path.
        columns: which are read beside ``dataloader`` and ``index``; None for all.
        complete: whether missing samples are an error rather than a warning.

    Returns:
        A row for each sample, by ``dataloader`` and ``index``, its place in the data set. The columns are ``tokens``,
        ``ids``, ``scores``, ``players`` (which tokens play), ``target``, ``target_name``, ``logit``, ``probability``
        and ``label``; of images, sounds and videos also where their patches lie. Lists are NumPy arrays, what does not
        apply is missing.

    Raises:
        FileNotFoundError: no such folder, or one of something else.
        ValueError: files that are damaged or of something else; missing samples, with ``complete``.

    Example:
        >>> from functools import partial
        >>> from lightning.pytorch import Trainer
        >>> from torch.utils.data import DataLoader
        >>> from lightning_callbacks import AttributionModule, AttributionWriter, read_attributions
        >>> tokenize = partial(tokenizer, padding=True, truncation=True, return_tensors="pt")
        >>> loader = DataLoader(["a gripping film", "not good at all"], batch_size=2, collate_fn=tokenize)
        >>> trainer = Trainer(
        ...     accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=AttributionWriter("explained")
        ... )
        >>> trainer.predict(AttributionModule(model, processor=tokenizer), loader, return_predictions=False)
        >>> read_attributions("explained", columns=["target_name", "tokens"])["target_name"].tolist()
        ['positive', 'negative']
    """
    there = AttributionFolder(folder)
    done = there.done()
    count, total = sum(int(each.sum()) for each in done), sum(map(len, done))
    if count < total:
        message = (
            f"{there.path} is incomplete: {total - count} of {total} samples ({1 - count / total:.1%}) are missing. "
            "The same trainer.predict goes on where it stopped"
        )
        if complete:
            raise ValueError(message)
        warnings.warn(message, stacklevel=2)
    return there.read(columns).to_pandas()


def _manifest(settings: dict[str, Any], samples: Sequence[int]) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(json.dumps({"format": _FORMAT, **settings, "samples": list(samples)}))
    return manifest


def _columns(path: Path) -> list[str]:
    names: list[str] = pq.read_schema(path).names
    return names


def _table(path: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): delete it, and the same trainer.predict explains its samples again"
        ) from error
