"""A trained run as Python and notebooks have it: what translates and scores, and what shows where it looks."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from transformer import parameters
from transformer.analysis.view import View, view
from transformer.checkpoint import Checkpoints
from transformer.errors import InputError
from transformer.files import PART
from transformer.inference import translator
from transformer.inference.translator import Translator
from transformer.run_dir import DIVERGED, open_run
from transformer.training.optimizer import make_optimizer
from transformer.training.step import TrainState

# What `save` writes itself, and what a run directory says of the parameters that it had before.
_NOT_COPIED = {"config.json", "tokenizer.json", "scores.json", "hypotheses.txt", DIVERGED}


@dataclass(frozen=True)
class Run(Translator):
    """A trained model: text in, text out; the jitted `apply`; and where it looks.

    Attributes, besides those of a `Translator`:
        run_dir: the run directory that it was loaded from; None if it was made otherwise.
    """

    run_dir: Path | None = None

    def attention(self, source: str, target: str | None = None) -> View:
        """Where the model looks in a pair of sentences, in every layer and head; a notebook shows it as a page.

        Args:
            source: the source sentence.
            target: its translation; the run's own unless given.

        Raises:
            InputError: a sentence is empty, or has more tokens than the model has positions.
        """
        return view(self, source, target)

    def save(self, run_dir: str | Path) -> Path:
        """Writes a run directory with these parameters, on which every command works.

            changed = dataclasses.replace(run, params=jax.tree.map(lambda leaf: 0.9 * leaf, run.params))
            changed.save("runs/changed")

        It has one checkpoint, of the step that the run was loaded from, or of the last step. The log and the data sets
        of the run are copied, its scores are not. Training goes on from it with these parameters and with Adam's
        moments at zero.

        Args:
            run_dir: the new directory.

        Returns:
            The directory, as an absolute path.

        Raises:
            InputError: there is something in the directory, or it cannot be written; the parameters do not fit the
                model; or there are several models.
        """
        directory = Path(run_dir).expanduser().resolve()
        if self.others:
            raise InputError("An ensemble is several runs and cannot be saved as one: save each of them.")
        parameters.require_fit(self.model, self.params)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(f"{directory} is there already: give the name of a new directory.")
        config = replace(self.config, run_dir=str(directory))
        open_run(directory, config)
        if self.run_dir is not None:
            for file in self.run_dir.iterdir():
                if file.is_file() and file.name not in _NOT_COPIED and file.suffix != PART and file.name != ".lock":
                    shutil.copy(file, directory)
        self.tokenizer.save(directory / "tokenizer.json")
        step = self.checkpoints[-1] if self.checkpoints else config.training.steps
        with Checkpoints(directory, config.training.keep_last, self.tokenizer.fingerprint) as checkpoints:
            checkpoints.save(step, self._state(step), {})
        return directory

    def _state(self, step: int) -> TrainState:
        """What training resumes from: these parameters in float32, and an optimizer that has only counted the steps."""
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), self.params)
        config = self.config
        optimizer = make_optimizer(config.optimizer, config.model.d_model, config.training.steps)
        moments = jax.tree.map(np.asarray, jax.jit(optimizer.init)(params["params"]))
        counted = jax.tree.map(
            lambda leaf: np.full_like(leaf, step) if np.issubdtype(leaf.dtype, np.integer) else leaf, moments
        )
        return TrainState(jnp.asarray(step, jnp.int32), params, counted)


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
    directory = Path(run_dir).expanduser()
    return Run(**vars(translator.load(directory, checkpoint, average, dtype)), run_dir=directory.resolve())
