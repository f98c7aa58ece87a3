"""The config that fine-tuning starts from."""

from dataclasses import replace

from transformer.config import Config, DataConfig, OptimizerConfig, TrainingConfig

RUN_DIR = "runs/fine-tuned"
"""Run directory of a fine-tuned run, unless another one is given."""
PEAK = 0.04
"""Highest learning rate times d_model: 3.1e-4 for the quickstart, 7.8e-5 for the paper's base model."""


def fine_tuning(origin: Config, init_from: str) -> Config:
    """Makes the default config of a run that starts from the parameters of another one.

    What describes the model and its text comes from the other run: model, special ids, languages, normalization,
    maximum length, search and scores. So does what one update is made of: batch size, micro-batches and label
    smoothing. Corpus, schedule, number of steps and intervals do not.

    The schedule is gentle. Adam starts with empty moments, so its first updates are noisy: the rate rises over a tenth
    of the steps. The peak is about a tenth of what training uses, and falls with the width as the best rate of Adam
    does (Yang et al. 2022, arXiv 2203.03466): larger updates would destroy what was learned. The rate decays to 0 over
    the last half, so the last checkpoint needs no averaging.

    Args:
        origin: Config of the other run.
        init_from: Value of `Config.init_from`, which names the other run.
    """
    data, training = origin.data, origin.training
    return Config(
        run_dir=RUN_DIR,
        init_from=init_from,
        data=DataConfig(
            source_language=data.source_language,
            target_language=data.target_language,
            normalization=data.normalization,
            max_length=data.max_length,
        ),
        tokenizer=replace(origin.tokenizer, file=None),
        model=origin.model,
        optimizer=OptimizerConfig(
            schedule="warmup_stable_decay", peak=PEAK / origin.model.d_model, warmup_steps=40, final_fraction=0.5
        ),
        training=TrainingConfig(
            steps=400,
            batch_tokens=training.batch_tokens,
            accumulation_steps=training.accumulation_steps,
            label_smoothing=training.label_smoothing,
            log_every=50,
            validate_every=100,
        ),
        search=origin.search,
        scores=origin.scores,
    )
