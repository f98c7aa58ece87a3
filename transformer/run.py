"""A trained run as Python and notebooks have it: what translates and scores, and what shows where it looks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformer.analysis.view import View, view
from transformer.inference import translator
from transformer.inference.translator import Translator


@dataclass(frozen=True)
class Run(Translator):
    """A trained model: text in, text out; the jitted `apply`; and where it looks."""

    def attention(self, source: str, target: str | None = None) -> View:
        """Where the model looks in a pair of sentences, in every layer and head; a notebook shows it as a page.

        Args:
            source: the source sentence.
            target: its translation; the run's own unless given.

        Raises:
            InputError: a sentence is empty, or has more tokens than the model has positions.
        """
        return view(self, source, target)


def load(
    run_dir: str | Path,
    checkpoint: Literal["best", "last"] | int = "last",
    average: int | None = None,
    dtype: Literal["auto", "bfloat16", "float32"] | None = None,
) -> Run:
    """A run, on whatever machine it was trained; the arguments are those of `inference.translator.load`.

    If the run used the compilation cache (`compilation_cache`), so does this process from here on.

    Raises:
        InputError: the directory is not that of a run, or has not the checkpoints or the tokenizer asked for.
    """
    return Run(**vars(translator.load(run_dir, checkpoint, average, dtype)))
