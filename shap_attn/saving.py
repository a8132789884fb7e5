"""An explainer as one file: weights and plain data in a zip archive, with nothing pickled where that is possible."""

from __future__ import annotations

import copy
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import cloudpickle
import torch
import transformers
from shap.utils import OpChain
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

_FORMAT, _HEADER = 1, "explainer.json"


def write(out_file: BinaryIO | Path, model: nn.Module, reads: Any, settings: dict[str, Any]) -> None:
    """Write a model, what reads its inputs, and the constructor's arguments.

    What is no plain data is pickled: a game or an estimator that is a function, and a model that its class in
    transformers and its configuration do not give back.
    """
    plain = {name: value for name, value in settings.items() if _is_plain(value)}
    header: dict[str, Any] = {"format": _FORMAT, "settings": plain, "model": None, "reads": None}
    pickled: dict[str, Any] = {name: value for name, value in settings.items() if name not in plain}
    with tempfile.TemporaryDirectory() as room:
        folder = Path(room)
        if _is_rebuilt(model):
            model.save_pretrained(folder / "model")
            header["model"] = type(model).__name__
        else:
            pickled["model"] = model
        if reads is not None:
            reads.save_pretrained(folder / "reads")
            header["reads"] = "tokenizer" if isinstance(reads, PreTrainedTokenizerBase) else "image processor"
        (folder / _HEADER).write_text(json.dumps(header, default=_to_plain), encoding="utf-8")
        if pickled:
            (folder / "pickled").write_bytes(cloudpickle.dumps(pickled))
        with zipfile.ZipFile(out_file, "w") as archive:  # last, so that a failure leaves an older file alone
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))


def read(in_file: BinaryIO | Path, *, allow_pickle: bool) -> tuple[nn.Module, Any, dict[str, Any]]:
    """Read what :func:`write` wrote.

    Raises:
        ValueError: a file of another kind, or pickled parts that are not allowed.
    """
    another = "expected a file that AttentionExplainer.save wrote, got another kind of file"
    if not zipfile.is_zipfile(in_file):
        raise ValueError(another)
    with tempfile.TemporaryDirectory() as room, zipfile.ZipFile(in_file) as archive:
        if _HEADER not in archive.namelist():
            raise ValueError(another)
        folder = Path(room)
        archive.extractall(folder)
        header = json.loads((folder / _HEADER).read_text(encoding="utf-8"), object_hook=_from_plain)
        if header["format"] != _FORMAT:
            raise ValueError(f"the file has format {header['format']}, expected {_FORMAT}: another version wrote it")
        pickled: dict[str, Any] = {}
        if (folder / "pickled").exists():
            if not allow_pickle:
                raise ValueError(
                    "the explainer has a function of yours, or a model that transformers alone cannot build. These are "
                    "pickled, and unpickling can run any code; if you trust the file: load(file, allow_pickle=True)"
                )
            pickled = cloudpickle.loads((folder / "pickled").read_bytes())
        model = pickled.pop("model", None)
        if header["model"] is not None:
            model_class = getattr(transformers, header["model"])
            model = model_class.from_pretrained(folder / "model", local_files_only=True, dtype="auto")
        reader = {"tokenizer": AutoTokenizer, "image processor": AutoImageProcessor}.get(header["reads"])
        reads = reader and reader.from_pretrained(folder / "reads", local_files_only=True)
    return model, reads, {**header["settings"], **pickled}


def to_plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with an OpChain, which cannot be pickled, in a form that can be."""
    return {name: _to_plain(value) if isinstance(value, OpChain) else value for name, value in settings.items()}


def from_plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that :func:`to_plain` was given."""
    return {name: _from_plain(value) if isinstance(value, dict) else value for name, value in settings.items()}


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
        return {"operation": [value._root_name, value._ops]}
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
    chain._ops = operations
    return chain
