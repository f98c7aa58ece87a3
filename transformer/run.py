"""A trained run as an object for Python and notebooks."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from transformer import parameters
from transformer.analysis.view import View, view
from transformer.checkpoint import Checkpoints
from transformer.config import Config
from transformer.errors import InputError
from transformer.files import PART, new_folder, write_whole
from transformer.inference import translator
from transformer.inference.translator import Translator
from transformer.run_dir import DIVERGED, check_run, open_run
from transformer.starts import FILE as STARTS
from transformer.training import nonfinite
from transformer.training.optimizer import make_optimizer
from transformer.training.step import TrainState, create_state

# Files that `save` writes itself, and results of the parameters that the run had before.
_NOT_COPIED = {
    *("config.json", "tokenizer.json", "scores.json", "hypotheses.txt", DIVERGED, ".lock", "tokens.lock"),
    *(STARTS, nonfinite.FILE),
}


@dataclass(frozen=True)
class Run(Translator):
    """A trained model that translates, scores, and shows its attention.

    Attributes, in addition to the attributes of a `Translator`:
        run_dir: The run directory that it was loaded from; None if it was not loaded.
    """

    run_dir: Path | None = None

    def attention(self, source: str, target: str | None = None) -> View:
        """The attention weights of every layer and head for a sentence pair.

        A notebook shows the result as an interactive page.

        Args:
            source: The source sentence.
            target: Its translation; None uses the translation by this run.

        Raises:
            InputError: A sentence is empty, or has more tokens than the model has positions.
        """
        return view(self, source, target)

    def save(self, run_dir: str | Path, kept: Mapping[str, bytes] = MappingProxyType({})) -> Path:
        """Writes a run directory with these parameters, which every command accepts.

            changed = dataclasses.replace(run, params=jax.tree.map(lambda leaf: 0.9 * leaf, run.params))
            changed.save("runs/changed")

        It has one checkpoint, at the step that this run was loaded from, or at the last step. The log and the data sets
        are copied from the run; its scores are not. Training can resume from the checkpoint, with Adam's moments at
        zero.

        The directory appears when it is complete.

        Args:
            run_dir: A new or empty directory.
            kept: Further files to write, by name.

        Returns:
            The directory, as an absolute path.

        Raises:
            InputError: The directory is not empty or cannot be written to; the parameters do not fit the model; or this
                is an ensemble.
        """
        directory = Path(run_dir).expanduser().resolve()
        if self.others:
            raise InputError("Cannot save an ensemble as one run. Save each of its runs.")
        parameters.require_fit(self.model, self.params)
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(f"Cannot save a run to {directory}: it already exists. Give a new directory.")
        config = replace(self.config, run_dir=str(directory))
        check_run(directory, config)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with new_folder(directory) as folder:
                self._write(folder, config, kept)
        except OSError as error:
            raise InputError(f"Cannot save a run to {directory}: {error.strerror}.") from error
        return directory

    def _write(self, folder: Path, config: Config, kept: Mapping[str, bytes]) -> None:
        open_run(folder, config)
        if self.run_dir is not None:
            for file in self.run_dir.iterdir():
                if file.is_file() and file.name not in _NOT_COPIED and file.suffix != PART:
                    shutil.copy(file, folder)
        for name, content in kept.items():
            write_whole(folder / name, content)
        self.tokenizer.save(folder / "tokenizer.json")
        step = self.checkpoints[-1] if self.checkpoints else config.training.steps
        with Checkpoints(folder, config.training.keep_last, self.tokenizer.fingerprint) as checkpoints:
            checkpoints.save(step, self._state(step), {})

    def _state(self, step: int) -> TrainState:
        """The state that training resumes from.

        It has these parameters in float32, and an optimizer state with zero moments that counts `step` updates.
        """
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), self.params)
        config = self.config
        optimizer = make_optimizer(config.optimizer, config.model.d_model, config.training.steps)
        moments = jax.tree.map(
            np.asarray, create_state(self.model, optimizer, config.seed, params, config.training.freeze).optimizer_state
        )
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
    """Loads a trained run, on any machine.

    If the run used the compilation cache (`compilation_cache`), this process uses it from now on. A checkpoint that
    cannot be read is skipped with a note on standard error, unless `checkpoint` is its step.

    Args:
        run_dir: The run directory.
        checkpoint: `last`, `best` (the one with the lowest validation loss), or a step.
        average: Number of checkpoints to average, ending with this one (section 6.1). None uses the run's configured
            number for `last` (fewer if fewer exist), and 1 for any other.
        dtype: Compute dtype; None uses the run's.

    Raises:
        InputError: This is not a run directory, or it lacks the chosen checkpoints or its tokenizer.
    """
    directory = Path(run_dir).expanduser()
    return Run(**vars(translator.load(directory, checkpoint, average, dtype)), run_dir=directory.resolve())
