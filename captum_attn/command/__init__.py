"""The command ``captum-attn``: explain an input, evaluate methods, inspect a model, without a line of Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="captum-attn",
    help="Why did this transformer say that? Explanations by attention and its gradients, as pages to click through.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Method(StrEnum):
    """Those that need nothing but the model."""

    AttnLRP = "AttnLRP"
    IntegratedAttnLRP = "IntegratedAttnLRP"
    ShapleyGradAttention = "ShapleyGradAttention"
    ShapleyAttention = "ShapleyAttention"
    IntegratedAttention = "IntegratedAttention"
    GenericRelevance = "GenericRelevance"
    GradientAttentionRollout = "GradientAttentionRollout"
    GradSAM = "GradSAM"
    NormAttention = "NormAttention"
    RawAttention = "RawAttention"
    AttentionRollout = "AttentionRollout"
    AttentionFlow = "AttentionFlow"
    GeneralizedAttentionFlow = "GeneralizedAttentionFlow"


_MEASURED = [Method.IntegratedAttnLRP, Method.AttnLRP, Method.ShapleyGradAttention]

ModelOption = Annotated[str, typer.Option("--model", help="A folder, or a name on the Hugging Face hub.")]
TextOption = Annotated[list[str] | None, typer.Option("--text", help="A text; may be given several times.")]
ImageOption = Annotated[list[Path] | None, typer.Option("--image", help="An image file; may be given several times.")]
TargetOption = Annotated[
    str | None, typer.Option("--target", help="A class, by name or number. Default: the predicted.")
]
OutOption = Annotated[Path, typer.Option("--out", help="The page to write.")]
MethodOption = Annotated[
    list[Method] | None,
    typer.Option("--method", metavar="NAME", help=f"May be given several times: {', '.join(Method)}."),
]


@app.command()
def explain(
    model: ModelOption,
    text: TextOption = None,
    image: ImageOption = None,
    audio: Annotated[list[Path] | None, typer.Option(help="A WAV file; may be given several times.")] = None,
    video: Annotated[Path | None, typer.Option(help="A GIF, or a folder of frames.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What a language model answers; it is asked as in a chat.")] = None,
    response: Annotated[str | None, typer.Option(help="The answer to explain. Default: what the model writes.")] = None,
    target: TargetOption = None,
    method: MethodOption = None,
    pieces: Annotated[bool, typer.Option("--pieces", help="Show tokens, not whole words.")] = False,
    out: OutOption = Path("explained.html"),
) -> None:
    """Which words, patches or moments made the model decide? What did its answer come from?

    Writes a page to click through: from whom each token takes and to whom it gives, by layer, head, sign and class.

    captum-attn explain --model FOLDER --text "A slow start, but what an ending!"
    """
    with _for_people("explain", "transformers"):
        from captum_attn.command.explaining import explain_answer, explain_input
        from captum_attn.command.loading import load
        from captum_attn.command.terminal import print_answer, print_explored

        if prompt is None and response is not None:
            raise ValueError("--response is an answer to a --prompt")
        if prompt is not None:
            others: dict[str, Any] = {"text": text, "image": image, "audio": audio, "video": video}
            others |= {"target": target, "method": method, "pieces": pieces}
            if unread := [f"--{name}" for name, given in others.items() if given]:
                raise ValueError(f"--prompt explains what the model writes, without {' and '.join(unread)}")
            answer = explain_answer(load(model), prompt, response)
            print_answer(answer)
            written = answer.to_html(out)
        else:
            given = {"text": text, "image": image, "audio": audio, "video": video and [video]}
            found = explain_input(load(model), given, target, method, words=not pieces)
            print_explored(found)
            written = found.to_html(out)
        typer.echo(f"Wrote {written}")


@app.command()
def evaluate(
    model: ModelOption,
    data: Annotated[
        Path, typer.Option(help="A file of texts (.txt, .tsv, .csv; a column 'label'), or a folder of images.")
    ],
    method: MethodOption = None,
    column: Annotated[str | None, typer.Option(help="The column of texts (text, sentence, review).")] = None,
    limit: Annotated[int, typer.Option(help="How many examples, the first ones.", min=1)] = 100,
    out: OutOption = Path("evaluated.html"),
) -> None:
    """Which method can be trusted on this model? Takes away what each says matters, and asks the model again.

    captum-attn evaluate --model FOLDER --data reviews.tsv --method AttnLRP --method RawAttention
    """
    with _for_people("evaluate", "metrics,transformers"):
        from captum_attn.command.explaining import evaluate_methods
        from captum_attn.command.loading import load

        found = evaluate_methods(load(model), data, method or _MEASURED, limit, column)
        typer.echo(found.to_markdown())
        typer.echo(f"Wrote {found.to_html(out)}")


@app.command()
def inspect(
    model: ModelOption,
    text: TextOption = None,
    image: ImageOption = None,
    target: TargetOption = None,
) -> None:
    """Will it work on this model? Lists the attention that is seen, and checks gradients against finite differences.

    captum-attn inspect --model FOLDER --text "a gripping film"
    """
    with _for_people("inspect", "transformers"):
        from captum_attn.command.explaining import inspect_model
        from captum_attn.command.loading import load

        typer.echo(inspect_model(load(model), {"text": text, "image": image}, target))


@contextmanager
def _for_people(command: str, extra: str) -> Iterator[None]:
    """What goes wrong, as one message; of a package that is missing, how to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise _failed(
            f"captum-attn {command} needs {error.name}, which is not installed: pip install 'captum-attn[{extra}]'"
        ) from error
    except (ValueError, TypeError, OSError, IndexError, RuntimeError) as error:
        raise _failed(f"captum-attn {command}: {error}") from error


def _failed(message: str) -> typer.Exit:
    typer.secho(message, fg="red", err=True)
    return typer.Exit(1)
