"""Hidden states of a concept's tokens, computed once for each state of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

import torch
from torch import Tensor, nn

from captum_attn.concepts.layers import Layer
from captum_attn.core import (
    ModelInputs,
    Target,
    Tokens,
    add_to_hash,
    code_fingerprint,
    config_of,
    device_of,
    fingerprint,
    observed_forward,
    select_target,
    target_of_each,
    warn_user,
)
from captum_attn.core.readout import RowWeights

Scope = Literal["players", "readout", "all"]
"""Whose hidden states count: of patches or words, of the readout token, or of all that are no padding."""


def tokens_in_scope(scope: Scope, tokens: Tokens, readout: RowWeights) -> Tensor:
    """bool (B, N): the tokens whose states count.

    Args:
        scope: ``"players"``, ``"readout"`` or ``"all"`` that is no padding.
        tokens: which tokens of a forward pass are which.
        readout: the tokens that its output is read from; only asked for if they are meant.
    """
    if scope == "readout":
        return readout.weights() > 0
    return tokens.players if scope == "players" else tokens.real


@dataclass(frozen=True)
class ConceptStates:
    """The hidden states of one concept's tokens.

    Attributes:
        hidden: (T, D) of each layer, on the CPU, in the model's dtype.
        counts: int64 (E,), how many tokens each of the E examples has.
        predicted: int64 (E,), the class that the model predicts; -1 where its output is not one of several classes.
    """

    hidden: list[Tensor]
    counts: Tensor
    predicted: Tensor

    def only(self, examples: Sequence[int]) -> ConceptStates:
        """The states of some examples, by their places."""
        if len(examples) == len(self.counts):
            return self
        kept = torch.zeros(len(self.counts), dtype=torch.bool)
        kept[list(examples)] = True
        of_tokens = torch.repeat_interleave(kept, self.counts)
        return ConceptStates([hidden[of_tokens] for hidden in self.hidden], self.counts[kept], self.predicted[kept])

    def begin_with(self, first: ConceptStates) -> bool:
        """Whether these are the states of their first examples, up to rounding."""
        count, known = len(first.counts), int(first.counts.sum())
        if not torch.equal(self.counts[:count], first.counts):
            return False
        return all(_alike(own[:known], other) for own, other in zip(self.hidden, first.hidden, strict=True))


def _alike(states: Tensor, others: Tensor) -> bool:
    off = 1e-3 if others.dtype in (torch.float32, torch.float64) else 0.05
    return torch.allclose(states, others, rtol=off, atol=off * float(others.abs().mean()))


def predicted_classes(output: Tensor) -> Tensor:
    """int64 (B,), the class that an output (B, C) predicts; -1 of an output of another form, or of one class."""
    if output.dim() == 2 and output.shape[1] > 1:
        return output.argmax(-1)
    return torch.full((len(output),), -1, device=output.device)


class StateStore:
    """Computes hidden states of concepts, and keeps them in memory, and in files if it has a folder.

    They are known by a hash of the concept's examples and of all settings, and belong to a hash of all of the model's
    weights: where these are others, or the first example has other states now, they are computed again. A file says
    what it holds and has a checksum.

    Args:
        model: the model.
        special_ids: of the tokenizer.
        folder: where files are kept; None for memory alone.
    """

    def __init__(
        self,
        model: nn.Module,
        special_ids: Collection[int] | None,
        folder: Path | None,
    ) -> None:
        self._model, self._special_ids, self._folder = model, special_ids, folder
        self._kept: dict[str, ConceptStates] = {}
        self._weights: str | None = None

    def states(
        self,
        name: str,
        batches: Sequence[ModelInputs],
        layers: Sequence[Layer],
        scope: Scope,
        readout_target: Target,
        done: Callable[[int], Any],
    ) -> ConceptStates:
        """The states of a concept's tokens, from memory, a file, or the model.

        Args:
            name: the concept's, for messages.
            batches: its examples.
            layers: whose states.
            scope: which tokens count.
            readout_target: the output by which the readout token is found, in the scope ``"readout"``.
            done: called with the number of examples that are done.
        """
        key = self.key(batches, layers, scope, readout_target)
        states = self._kept.get(key) or self._load(name, key)
        if states is not None:  # what else the model may do now, such as what a hook is bound to, is tried
            first = self.compute([batches[0][:1]], layers, scope, readout_target, lambda _: None)
            states = states if states.begin_with(first) else None
        if states is None:
            states = self.compute(batches, layers, scope, readout_target, done)
            self._save(key, states)
        else:
            done(len(states.counts))
        self._kept[key] = states
        return states

    def refresh(self) -> None:
        """Look at the model's weights and behaviour anew; forget the states of others."""
        weights = f"{fingerprint(self._model)} {behaviour(self._model)}"
        if weights != self._weights:
            self._kept.clear()
            self._weights = weights

    def key(self, batches: Sequence[ModelInputs], layers: Sequence[Layer], scope: Scope, readout_target: Target) -> str:
        """A hash of everything that states depend on but the weights."""
        settings = (
            "with predictions",  # which files of former versions lack
            scope,
            None if self._special_ids is None else sorted(self._special_ids),
            [asdict(layer) for layer in layers],
        )
        target = str(readout_target) if scope == "readout" else None
        digest = hashlib.sha256(repr((type(self._model).__qualname__, settings, target)).encode())
        for batch in batches:
            for part in (batch.name, batch.features, *batch.positional, batch.keywords, batch.notes):
                add_to_hash(digest, part)
        return digest.hexdigest()

    def compute(
        self,
        batches: Sequence[ModelInputs],
        layers: Sequence[Layer],
        scope: Scope,
        readout_target: Target,
        done: Callable[[int], Any],
    ) -> ConceptStates:
        """The states of a concept's tokens from the model, which are not kept; arguments as in :meth:`states`."""
        hidden: list[list[Tensor]] = [[] for _ in layers]
        counts: list[Tensor] = []
        predicted: list[Tensor] = []
        modules = {layer.module for layer in layers}
        readout = scope == "readout"
        for examples in batches:
            batch = examples.to(device_of(self._model))
            with observed_forward(self._model, batch, gradients=readout, modules=modules) as run:
                tokens = run.tokens(self._special_ids)
                selected = run.output
                if readout:
                    targets = target_of_each(readout_target, len(batch))
                    selected = select_target(run, targets).scores
                chosen = tokens_in_scope(scope, tokens, run.readout_rows(selected))
                if not chosen.any(-1).all():
                    idle = (~chosen.any(-1)).nonzero().flatten() + sum(map(len, counts))
                    raise ValueError(
                        f"the output of the examples {idle.tolist()} depends on none of their tokens, so nothing is "
                        "read there: is it saturated? Explain logits, not probabilities, or leave them out"
                    )
                for kept, layer in zip(hidden, layers, strict=True):
                    kept.append(layer.of(run).hidden.detach()[chosen].cpu())
                counts.append(chosen.sum(-1).cpu())
                predicted.append(self._predicted(run.output.detach()).cpu())
            done(len(batch))
        return ConceptStates([torch.cat(parts) for parts in hidden], torch.cat(counts), torch.cat(predicted))

    def _predicted(self, output: Tensor) -> Tensor:
        """:func:`predicted_classes`, where outputs are classes that exclude each other."""
        kind = getattr(config_of(self._model), "problem_type", None)
        if kind in (None, "single_label_classification"):
            return predicted_classes(output)
        return torch.full((len(output),), -1)

    def _path(self, key: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{key[:32]}.pt"

    def _load(self, name: str, key: str) -> ConceptStates | None:
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            content = torch.load(path, weights_only=True)
            states = ConceptStates(content["hidden"], content["counts"], content["predicted"])
            problem = None
            if content["key"] != key or content["checksum"] != _checksum(states):
                problem = "is corrupt"
            elif content["weights"] != self._weights:
                problem = "was written with other weights"
        except Exception:  # whatever a damaged file makes of torch.load
            problem = "is corrupt"
        if problem:
            warn_user(f"{path} {problem}: the states of concept {name!r} are computed again")
            return None
        return states

    def _save(self, key: str, states: ConceptStates) -> None:
        path = self._path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "key": key,
            "weights": self._weights,
            "checksum": _checksum(states),
            "hidden": states.hidden,
            "counts": states.counts,
            "predicted": states.predicted,
        }
        with NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            torch.save(content, file)
        Path(file.name).replace(path)


def behaviour(model: nn.Module) -> str:
    """A hash of what a model does beside its weights: its modules' code, their hooks, and plain attributes."""
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float | str)}
        plain.pop("training", None)
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        functions = [getattr(hook, "__func__", hook) for hook in hooks]  # not what a method is bound to
        code = [code_fingerprint(function) for function in (type(module).forward, *functions)]
        add_to_hash(digest, (name, sorted(plain.items()), code))
    return digest.hexdigest()


def _checksum(states: ConceptStates) -> str:
    digest = hashlib.sha256()
    for tensor in (*states.hidden, states.counts, states.predicted):
        add_to_hash(digest, tensor)
    return digest.hexdigest()
