"""All processes go on together, or none does: what fails on one is known to all before they wait for each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lightning.pytorch import Trainer

Result = TypeVar("Result")


class FailedSomewhereError(RuntimeError):
    """Something failed on this process, which is then the cause, or on another one."""


def all_or_none(trainer: Trainer, work: Callable[[], Result]) -> Result:
    """Do something on every process that needs no other process.

    Args:
        trainer: whose processes they are.
        work: must not communicate.

    Raises:
        FailedSomewhereError: on all processes, if it failed on one of them.
    """
    results: list[Result] = []
    problem: Exception | None = None
    try:
        results.append(work())
    except Exception as error:
        problem = error
    try:
        if trainer.strategy.reduce_boolean_decision(problem is None):
            return results[0]
        if problem is None:
            raise FailedSomewhereError("it failed on another process, whose output says why")
        raise FailedSomewhereError(f"{type(problem).__name__}: {problem}") from problem
    finally:
        del problem  # or its traceback would hold this frame, and the frame what it could not compute
