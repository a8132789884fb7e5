"""Which functions of a forward pass have a rule, and which others bend the way of relevance without one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from captum_attn.core.propagation.mode import PropagationMode
from captum_attn.core.propagation.rule_sets import Propagation
from captum_attn.core.user_warnings import warn_user


@dataclass(frozen=True)
class Coverage:
    """What was found on the way from the output down to the input.

    Attributes:
        ruled: how often a function ran under a rule, by name.
        plain: how often a function that is not linear kept its plain gradient, for want of a rule.
        hidden: functions of which nothing says what they compute.
    """

    ruled: Counter[str]
    plain: Counter[str]
    hidden: Counter[str]

    def __str__(self) -> str:
        count, total = len(self.ruled), len({*self.ruled, *self.plain})
        told = f"{count} of {total} functions that bend have a rule"
        if not self.plain:
            return told
        return f"{told}; {', '.join(map(repr, sorted(self.plain)))} pass their gradient"


def check_coverage(coverage: Coverage, propagation: Propagation, model: Any) -> None:
    """Warn of functions that keep their plain gradient for want of a rule.

    Raises:
        ValueError: parts of the model hide what they compute, so that nothing says which rule they need.
    """
    name = type(model).__name__
    if coverage.hidden:
        raise ValueError(
            f"{name} computes its output by functions that hide what they do ({_listed(coverage.hidden)}): compiled "
            f"or fused ones, or ones with gradients of their own, to which no rule of {propagation.name!r} can be "
            "applied, so that relevance would be half explained. Explain the model from before it was compiled or "
            "patched, or with propagation='gradient'"
        )
    if coverage.plain:
        warn_user(
            f"{propagation.name!r} has no rule for functions of {name} that are not linear and pass their plain "
            f"gradient ({_listed(coverage.plain)}); captum_attn.core.propagation says how to add one"
        )


def _listed(functions: Counter[str]) -> str:
    return ", ".join(f"{function} {count} times" if count > 1 else function for function, count in functions.items())


def coverage_of(output: Tensor, rules: PropagationMode) -> Coverage:
    """Look at all that an output was computed by from what depends on the input.

    Args:
        output: with a graph.
        rules: under which it was computed.
    """
    found = Coverage(Counter(), Counter(), Counter())
    for node in _nodes(output, rules):
        name = node.name()
        if node in rules.ruled:
            if not _AS_THEY_ARE.match(name):
                found.ruled[_RULED.get(name, "product")] += 1
        elif _OURS.fullmatch(name):
            found.ruled["attention"] += not name.startswith(("_Entrance", "_Gated"))
        elif isinstance(node, BackwardCFunction) or "CppNode" in name or "Compiled" in name:
            found.hidden[name.removesuffix("Backward")] += 1
        elif name in _PRODUCTS:
            found.plain[_plain_name(name)] += _depend(node, rules) > 1
        elif not _AS_THEY_ARE.match(name):
            found.plain[_plain_name(name)] += 1
    return Coverage(+found.ruled, +found.plain, +found.hidden)


def _nodes(output: Tensor, rules: PropagationMode) -> Iterator[Any]:
    """The graph's nodes whose results depend on the input."""
    seen: set[Any] = set()
    waiting = [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or not rules.dependents.node_depends(node):
            continue
        seen.add(node)
        yield node
        waiting.extend(parent for parent, _ in node.next_functions)


def _depend(node: Any, rules: PropagationMode) -> int:
    return rules.dependents.parents_that_depend(node)


def _plain_name(node: str) -> str:
    """The function that a node of autograd's graph is of: ``softplus`` of ``SoftplusBackward0``."""
    return re.sub(r"Backward\d*$", "", node).lower()


_OURS = re.compile("_(ObservedAttention|ObservedSoftmax|Entrance|Gated)Backward")
_RULED = {"_ReplacedBackward": "norm", "_ProportionalBackward": "activation"}
_PRODUCTS = frozenset(
    {"MulBackward0", "DivBackward0", "MmBackward0", "BmmBackward0", "MvBackward0", "DotBackward0", "AddmmBackward0"}
    | {
        "BaddbmmBackward0",
        "AddcmulBackward0",
        "AddbmmBackward0",
        "AddmvBackward0",
        "LinearBackward0",
        "GroupedMmBackward0",
    }
)
_AS_THEY_ARE = re.compile(  # linear in what depends on the input, piecewise so, or softmax, which keeps its gradient
    r"(T|Add|Sub|Rsub|Neg|Sum|Mean|Nansum|Cumsum|Lerp|Convolution\w*|MkldnnConvolution|Mkldnn\w*|ThnnConv2D|View|UnsafeView|"
    r"ViewAs\w*|Reshape\w*|Transpose|Permute|Movedim|Expand|Slice|Select|Split\w*|SafeSplit|UnsafeSplit|Chunk|Cat|Stack|"
    r"Index\w*|Gather|Scatter\w*|Take\w*|Embedding\w*|Clone|Copy|CopySlices|CopyBackwards|ToCopy|Unsqueeze|Squeeze|Alias|"
    r"Repeat|Roll|Flip|AsStrided|MaskedFill|MaskedScatter|MaskedSelect|Where|ConstantPadNd|Reflection\w*|Replication\w*|"
    r"Upsample\w*|AvgPool\w*|AdaptiveAvgPool\w*|MkldnnAdaptiveAvgPool2D|NativeBatchNorm|CudnnBatchNorm|"
    r"MkldnnBatchNorm|Unbind|Unfold|Im2Col|Col2Im|Fft\w*|Tril|Triu|Diagonal|DiagEmbed|Real|Imag|Conj|ViewAsReal|"
    r"ViewAsComplex|Trace|Kthvalue|Relu|LeakyRelu|Threshold|Max\w*|Min\w*|Amax|Amin|Abs|Clamp\w*|Topk|Sort|Prelu|"
    r"NativeDropout|FusedDropout|Softmax|Bernoulli|RepeatInterleave|PixelShuffle|PixelUnshuffle|Segment\w*|"
    r"Detach|Lift\w*|Narrow|SqueezeMultiple|Sparse\w*|GridSampler\w*|AffineGridGenerator|Glu|Identity)Backward\w*$|"
    r"torch::autograd::(AccumulateGrad|CopySlices|CopyBackwards)|CopySlices$|CopyBackwards$|AccumulateGrad$"
)
