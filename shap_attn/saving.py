"""An explainer as one file: weights and plain data in a zip archive, with nothing pickled where that is possible."""

from __future__ import annotations

import copy
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard

import cloudpickle
import torch
import transformers
from shap.utils import OpChain
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.image_processing_base import ImageProcessingMixin

Saver: TypeAlias = str | Callable[[Any, BinaryIO], Any] | None
"""A function of what is saved and a stream, the name of a method that takes a stream, or None to leave it out."""

Loader: TypeAlias = Callable[[BinaryIO], Any]

OWN_FORM = ".save"
"""SHAP's default, which stands for the form of this room."""

_FORMAT, _HEADER = 2, "explainer.json"  # 1 has neither "absent" nor "others"


def write(
    out_file: BinaryIO | Path,
    model: nn.Module,
    reads: Any,
    settings: dict[str, Any],
    model_saver: Saver = OWN_FORM,
    masker_saver: Saver = OWN_FORM,
) -> None:
    """Write a model, what reads its inputs, and the constructor's arguments.

    In the own form, what is no plain data is pickled: a game or an estimator that is a function, and a model that its
    class in transformers and its configuration do not give back. The other forms are SHAP's: see :meth:`shap_attn.
    AttentionExplainer.save`.

    Raises:
        TypeError, ValueError: savers of another kind.
    """
    plain = {name: value for name, value in settings.items() if _is_plain(value)}
    header: dict[str, Any] = {"format": _FORMAT, "settings": plain, "model": None, "reads": None}
    pickled: dict[str, Any] = {name: value for name, value in settings.items() if name not in plain}
    savers = {"model": _saver("model", model, model_saver)}
    if reads is not None:
        savers["masker"] = _saver("masker", reads, masker_saver)
    header["absent"] = [part for part, saver in savers.items() if saver is None]
    header["others"] = [part for part, saver in savers.items() if callable(saver)]
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        for part in header["others"]:
            with open(folder / f"{part}.other", "wb") as stream:
                savers[part]({"model": model, "masker": reads}[part], stream)
        if savers["model"] == OWN_FORM and _is_rebuilt(model):
            model.save_pretrained(folder / "model")
            header["model"] = type(model).__name__
        elif savers["model"] == OWN_FORM:
            pickled["model"] = model
        if savers.get("masker") == OWN_FORM:
            reads.save_pretrained(folder / "reads")
            header["reads"] = next((name for name, (kind, _) in _READERS.items() if isinstance(reads, kind)))
        (folder / _HEADER).write_text(json.dumps(header, default=_to_plain), encoding="utf-8")
        if pickled:
            (folder / "pickled").write_bytes(cloudpickle.dumps(pickled))
        if isinstance(out_file, Path):
            out_file.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(out_file, "w") as archive:  # last, so that a failure leaves an older file alone
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))


def read(
    in_file: BinaryIO | Path,
    model_loader: Loader | None = None,
    masker_loader: Loader | None = None,
    *,
    allow_pickle: bool,
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Read what :func:`write` wrote.

    Raises:
        TypeError: loaders that are no functions.
        ValueError: a file of another kind; pickled parts that are not allowed; loaders that do not fit its parts.
    """
    another = "expected a file that AttentionExplainer.save wrote, got another kind of file"
    if not zipfile.is_zipfile(in_file):
        raise ValueError(another)
    with tempfile.TemporaryDirectory() as room, zipfile.ZipFile(in_file) as archive:
        if _HEADER not in archive.namelist():
            raise ValueError(another)
        folder = Path(room)
        archive.extractall(folder)
        header = _header((folder / _HEADER).read_bytes())
        if header is None:
            raise ValueError(another)
        if header["format"] not in (1, _FORMAT):
            raise ValueError(f"the file has format {header['format']!r}, expected {_FORMAT}: another version wrote it")
        model_class = None if header["model"] is None else _model_class(header["model"])
        others = _loaded(folder, header, {"model": model_loader, "masker": masker_loader})
        pickled: dict[str, Any] = {}
        if (folder / "pickled").exists():
            if not allow_pickle:
                raise ValueError(
                    "the explainer has a function of yours, or a model that transformers alone cannot build. These are "
                    "pickled, and unpickling can run any code; if you trust the file: load(file, allow_pickle=True)"
                )
            pickled = cloudpickle.loads((folder / "pickled").read_bytes())
        model = pickled.pop("model", others.get("model"))
        if model_class is not None:
            model = model_class.from_pretrained(folder / "model", local_files_only=True, dtype="auto")
        _, reader = _READERS.get(header["reads"], (None, None))
        reads = reader.from_pretrained(folder / "reads", local_files_only=True) if reader else others.get("masker")
    return model, reads, {**header["settings"], **pickled}


def _header(written: bytes) -> dict[str, Any] | None:
    """What the archive says of its parts; None if :func:`write` did not write it."""
    try:
        header = json.loads(written, object_hook=_from_plain)
    except ValueError:  # no JSON, or no text at all
        return None
    named = isinstance(header, dict) and header.keys() >= {"format", "settings", "model", "reads"}
    known = named and isinstance(header["settings"], dict) and header["reads"] in (None, *_READERS)
    return header if known else None


def _model_class(name: Any) -> type[PreTrainedModel]:
    """The model of transformers of this name; ``ValueError`` for what is none, which a file may name as well."""
    found = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, PreTrainedModel):
        raise ValueError(
            f"the file holds a model {name!r}, which is no model of transformers {transformers.__version__}: perhaps "
            "another version wrote it"
        )
    return found


_READERS: dict[str | None, tuple[Any, Any]] = {
    "tokenizer": (PreTrainedTokenizerBase, AutoTokenizer),
    "processor": (ProcessorMixin, AutoProcessor),
    "image processor": (object, AutoImageProcessor),
}
"""What reads inputs, by the name in a file: its class, and what loads it."""
_PARTS = {"model": "model", "masker": "tokenizer or image processor"}
_CALLABLE_PARTS = (nn.Module, PreTrainedTokenizerBase, ProcessorMixin, ImageProcessingMixin)


def to_plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with an OpChain, which cannot be pickled, in a form that can be."""
    return {name: _to_plain(value) if isinstance(value, OpChain) else value for name, value in settings.items()}


def from_plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that :func:`to_plain` was given."""
    return {name: _from_plain(value) if isinstance(value, dict) else value for name, value in settings.items()}


def _saver(part: str, value: Any, saver: Saver) -> Any:
    """The own form, a function of the value and a stream, or None to leave the value out."""
    if saver is None or saver == OWN_FORM:
        return saver
    if isinstance(saver, str):
        method = getattr(value, saver.removeprefix("."), None)
        if not callable(method):
            raise ValueError(
                f"{part}_saver={saver!r}: {type(value).__name__} has no such method, to be called with a stream. "
                f"Expected the name of one, {OWN_FORM!r} (the default), a function (value, stream) or None"
            )
        return lambda _, stream: method(stream)
    if not callable(saver):
        raise TypeError(
            f"{part}_saver is a {type(saver).__name__}, expected a function (value, stream), the name of a method that "
            f"takes a stream, {OWN_FORM!r} or None, to leave the {part} out"
        )
    return saver


def _loaded(folder: Path, header: Mapping[str, Any], loaders: Mapping[str, Loader | None]) -> dict[str, Any]:
    """The parts that are not in the own form, by their loaders."""
    loaded = {}
    for part, loader in loaders.items():
        absent, other = (part in header.get(kind, ()) for kind in ("absent", "others"))
        if loader is not None and (not callable(loader) or isinstance(loader, _CALLABLE_PARTS)):
            raise TypeError(
                f"{part}_loader is a {type(loader).__name__}, expected a function of a stream: "
                f"{part}_loader=lambda stream: ..."
            )
        if not (absent or other):
            if loader is not None:
                raise ValueError(
                    f"the file holds the {part} in AttentionExplainer's own form, or none that it needs, and no "
                    f"{part}_loader reads that: leave it out"
                )
        elif loader is None:
            missing = f"the explainer was saved without its {part} ({part}_saver=None): give it to"
            foreign = f"a {part}_saver wrote the {part} in a form of its own: give what reads that to"
            raise ValueError(
                f"{missing if absent else foreign} AttentionExplainer.load(file, {part}_loader=lambda stream: ...), a "
                f"function of a binary stream{' (an empty one)' * absent} that returns the {_PARTS[part]}"
            )
        else:
            with BytesIO() if absent else open(folder / f"{part}.other", "rb") as stream:
                loaded[part] = loader(stream)
    return loaded


def _is_rebuilt(model: nn.Module) -> TypeGuard[PreTrainedModel]:
    """Whether its class in transformers, its configuration and its weights in one dtype are all of the model."""
    if not isinstance(model, PreTrainedModel) or getattr(transformers, type(model).__name__, None) is not type(model):
        return False
    with torch.device("meta"):  # shapes alone
        twin: PreTrainedModel = type(model)(copy.deepcopy(model.config))
    return _structure(twin) == _structure(model) and len({weight.dtype for weight in model.parameters()}) == 1


def _structure(model: nn.Module) -> tuple[Any, Any]:
    modules = {name: type(module) for name, module in model.named_modules()}
    return modules, {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, default=_to_plain)
    except TypeError:
        return False
    return True


def _to_plain(value: Any) -> Any:
    """What JSON has no form for; ``TypeError`` for what has none here either."""
    if isinstance(value, OpChain):
        return {"operation": ["shap.Explanation", value.apply(_Recorder([])).operations]}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no plain data")


def _from_plain(value: dict[str, Any]) -> Any:
    if value.keys() == {"operation"}:
        return _op_chain(*value["operation"])
    return slice(*value["slice"]) if value.keys() == {"slice"} else value


def _op_chain(root: str, operations: list[Any]) -> OpChain:
    chain = OpChain(root)
    for name, arguments, options in operations:
        chain = getattr(chain, name)
        if arguments is not None:
            chain = chain(*arguments, **options)
    return chain


@dataclass(frozen=True)
class _Recorder:
    """Writes down what an OpChain does to it: names, each with the arguments of its call if it is one."""

    operations: list[list[Any]]

    def __getattr__(self, name: str) -> _Recorder:
        return _Recorder([*self.operations, [name, None, None]])

    def __getitem__(self, item: Any) -> _Recorder:
        return _Recorder([*self.operations, ["__getitem__", [item], {}]])

    def __call__(self, *arguments: Any, **options: Any) -> _Recorder:
        *before, (name, _, _) = self.operations
        return _Recorder([*before, [name, arguments, options]])
