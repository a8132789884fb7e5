"""Explainers that are pickled, saved and loaded as they were built."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any, BinaryIO, Self

import shap

from shap_attn import saving


class SavedExplainer(shap.Explainer):  # type: ignore[misc]
    """An explainer that ``model``, ``masker`` and ``_settings``, its constructor's keyword arguments, make again."""

    masker: Any
    _settings: dict[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.model, self.masker, saving.to_plain(self._settings))

    def save(
        self,
        out_file: BinaryIO | str | os.PathLike[str],
        model_saver: saving.Saver = saving.OWN_FORM,
        masker_saver: saving.Saver = saving.OWN_FORM,
    ) -> None:
        """Write the explainer to a file: the model's weights, its tokenizer or image processor, and all arguments.

        Only functions (a game or estimator of yours) and models that ``transformers`` alone cannot build are pickled.

        Args:
            out_file: a path, whose folder is made if there is none, or a binary file that can seek.
            model_saver: another way to write the model, as SHAP has it: a function ``saver(model, stream)``, or the
                name of a method of the model that takes a binary stream. None keeps the model out of the file.
            masker_saver: the same of the tokenizer or image processor.

        Raises:
            TypeError, ValueError: savers of another kind, or of no method.

        Example:
            >>> AttentionExplainer(model, tokenizer, game="mutual").save("explainer.zip")
            >>> AttentionExplainer.load("explainer.zip")("a gripping film").shape
            (1, 3, 2)
            >>> AttentionExplainer(model, tokenizer, game="mutual").save("light.zip", model_saver=None)
            >>> AttentionExplainer.load("light.zip", model_loader=lambda stream: model)("a gripping film").shape
            (1, 3, 2)
        """
        savers = {"model_saver": model_saver, "masker_saver": masker_saver}
        saving.write(_path_or_file(out_file), self.model, self.masker, self._settings, **savers)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        in_file: BinaryIO | str | os.PathLike[str],
        model_loader: saving.Loader | None = None,
        masker_loader: saving.Loader | None = None,
        *,
        allow_pickle: bool = False,
    ) -> Self:
        """Read an explainer that :meth:`save` wrote, with its model on the CPU and in eval mode.

        Args:
            in_file: a path, or a binary file that can seek.
            model_loader: a function of a binary stream that returns the model, where ``model_saver`` wrote it. Where it
                was kept out of the file, the stream is empty.
            masker_loader: the same of the tokenizer or image processor.
            allow_pickle: unpickle functions and models of yours, which can run any code. Only for files that you trust.

        Raises:
            TypeError: loaders that are no functions.
            ValueError: a file of another kind, one with pickled parts that are not allowed, or loaders that do not fit
                what is in it; the error says what is.
        """
        loaders = (model_loader, masker_loader)
        model, reads, settings = saving.read(_path_or_file(in_file), *loaders, allow_pickle=allow_pickle)
        return cls(model, reads, **settings)


def settings_of(kind: type[SavedExplainer]) -> dict[str, Any]:
    """The names of a constructor's keyword arguments, and their defaults."""
    parameters = inspect.signature(kind.__init__).parameters
    return {name: one.default for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}


def _rebuilt(kind: type[SavedExplainer], model: Any, masker: Any, settings: dict[str, Any]) -> SavedExplainer:
    """What pickle calls."""
    return kind(model, masker, **saving.from_plain(settings))


def _path_or_file(file: BinaryIO | str | os.PathLike[str]) -> BinaryIO | Path:
    return Path(file) if isinstance(file, str | os.PathLike) else file
