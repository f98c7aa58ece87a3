"""Every default of the project: frozen dataclasses and their checks.

The command line is made of them (`train.py --help`), each `configs/*.py` is one of them, and the run directory keeps
the resolved one as `config.json`.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from transformer.errors import InputError


def require(condition: bool, message: str) -> None:
    """Raises InputError with the message unless the condition holds."""
    if not condition:
        raise InputError(message)


@dataclass(frozen=True)
class DataConfig:
    """Where sentence pairs come from, and which of them are kept.

    In files, a split is two files (a Moses pair: source first, target second, one sentence a line) or one file (TSV,
    JSONL or parquet), any of them also as .gz, .xz or .zst. Of a Hugging Face dataset it is the name of a split there.
    One JSONL or parquet file can also hold all splits, with a key that names the split of each pair.
    """

    corpus: str = "files"
    """`files`; one JSONL or parquet file that holds all splits; or the name of a Hugging Face dataset, for instance
    `bentrevett/multi30k`. `package:quickstart.jsonl.xz` is a synthetic English-German corpus that comes with this
    package."""
    corpus_config: str | None = None
    """Configuration of the Hugging Face dataset, where it has several (`de-en` of wmt14)."""
    source_language: str = "en"
    """Language code of the source: the key or column in JSONL, parquet and Hugging Face datasets."""
    target_language: str = "de"
    """Language code of the target: the key or column in JSONL, parquet and Hugging Face datasets."""
    train: tuple[str, ...] = ()
    """Training pairs: two files, one file, or the name of a split. In a file that holds all splits they are called
    `train`, `validation` and `test` unless any is named."""
    validation: tuple[str, ...] = ()
    """Validation pairs, in the same forms; scored while training."""
    test: tuple[str, ...] = ()
    """Test pairs, in the same forms; scored at the end."""
    tags: str | None = None
    """Key or column with a list of tags of each pair, in JSONL, parquet and Hugging Face datasets: scores are broken
    down by them. If None, by the `tags` of those pairs that have any."""
    split_key: str = "split"
    """Key or column with the split of each pair, in one file that holds all splits."""
    tsv_columns: tuple[int, int] = (0, 1)
    """Columns of source and target in a TSV file, counted from 0."""
    drop_empty: bool = False
    """Drop and count training pairs with an empty side, instead of stopping at the first. In a validation or test set
    an empty side is always an error: it is scored on all of its references."""
    drop_duplicates: bool = False
    """Drop and count training pairs that were seen before."""
    max_length: int = 256
    """Longest source or target kept for training, in tokens with the end id; longer pairs are dropped and counted."""
    max_length_ratio: float | None = None
    """Drop and count training pairs whose longer side has more than this many times the tokens of the shorter."""

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            given = getattr(self, name)
            if self.corpus == "files":
                require(
                    len(given) <= 2,
                    f"data.{name} takes two files (source and target, one sentence a line) or one file (TSV, JSONL or "
                    f"parquet), but {len(given)} were given.",
                )
            else:
                require(
                    len(given) <= 1,
                    f"data.{name} takes one split name of {self.corpus}, but got {len(given)}: {' '.join(given)}. To "
                    "read these files, add --data.corpus files.",
                )
        require(
            self.corpus != "",
            "data.corpus is empty: give files, a file that holds all splits, or a Hugging Face dataset.",
        )
        require(
            self.corpus_config is None or not (self.corpus == "files" or self.is_one_file),
            f"data.corpus_config={self.corpus_config} is for a Hugging Face dataset, but data.corpus is {self.corpus}.",
        )
        require(
            self.tsv_columns[0] != self.tsv_columns[1] and min(self.tsv_columns) >= 0,
            f"data.tsv_columns must be two different columns counted from 0, but is {self.tsv_columns}.",
        )
        require(self.max_length >= 2, f"data.max_length must be at least 2, but is {self.max_length}.")
        if self.max_length_ratio is not None:
            require(self.max_length_ratio >= 1, f"data.max_length_ratio must be >= 1, but is {self.max_length_ratio}.")

    @property
    def is_one_file(self) -> bool:
        """Whether `corpus` is one file that holds all splits."""
        return re.search(r"\.(jsonl?|parquet)(\.(gz|xz|zst))?$", self.corpus) is not None


@dataclass(frozen=True)
class TokenizerConfig:
    """The joint byte-level BPE. Its size is `model.vocabulary_size`."""

    file: str | None = None
    """An existing `tokenizer.json` to use instead of training one on the training text."""
    pad_id: int = 0
    """Id that fills a row behind its end."""
    start_id: int = 1
    """Id that the decoder starts from (OPUS-MT models start from their pad id)."""
    end_id: int = 2
    """Id behind the last token of every sentence."""

    def __post_init__(self) -> None:
        for name in ("pad_id", "start_id", "end_id"):
            require(getattr(self, name) >= 0, f"tokenizer.{name} must not be negative, but is {getattr(self, name)}.")
        require(
            self.end_id not in (self.pad_id, self.start_id),
            f"tokenizer.end_id ({self.end_id}) must differ from pad_id and start_id, or no sentence could end.",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The architecture. The defaults are the paper's base model (Table 3)."""

    vocabulary_size: int = 37_000
    """Number of pieces in the joint vocabulary (section 5.1), special ids included."""
    d_model: int = 512
    """Width of the residual stream."""
    num_heads: int = 8
    """Attention heads; each has d_model / num_heads features."""
    d_ff: int = 2048
    """Width of the feed-forward layer (section 3.3)."""
    num_encoder_layers: int = 6
    """Layers of the encoder (section 3.1)."""
    num_decoder_layers: int = 6
    """Layers of the decoder (section 3.1)."""
    activation: Literal["relu", "gelu", "swish"] = "relu"
    """Nonlinearity of the feed-forward layer (Eq. 2: relu)."""
    norm: Literal["layer", "rms", "batch"] = "layer"
    """Normalization in Add & Norm."""
    norm_position: Literal["post", "pre"] = "post"
    """`post`: LayerNorm(x + Sublayer(x)), the paper; `pre`: x + Sublayer(LayerNorm(x)), and a final norm."""
    norm_epsilon: float = 1e-6
    """Added to the variance inside the normalization."""
    batch_norm_momentum: float = 0.99
    """Share of the old running statistics kept at each step, where `norm` is `batch`."""
    positions: Literal["interleaved", "halved", "halved_t2t", "learned"] = "interleaved"
    """Sinusoids as in section 3.5 (sin and cos interleaved), in two halves as Hugging Face's MarianMT or as
    tensor2tensor has them, or learned."""
    max_positions: int = 1024
    """Longest sequence the model is made for, in tokens; the size of the learned position table."""
    attention_bias: bool = False
    """Biases in the attention's projections (the paper has none)."""
    shared_embeddings: Literal["all", "target", "none"] = "all"
    """One matrix for source, target and output (section 3.4); only target with output; or three matrices."""
    scale_embeddings: bool = True
    """Multiply embeddings by sqrt(d_model) (section 3.4)."""
    final_logits_bias: bool = False
    """A bias on the output logits (Marian has one)."""
    dropout: float = 0.1
    """Residual dropout: on every sub-layer's output and on embeddings + positions (section 5.4)."""
    attention_dropout: float = 0.0
    """Dropout on the attention weights."""
    activation_dropout: float = 0.0
    """Dropout behind the feed-forward layer's nonlinearity."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Compute type; `auto` is bfloat16 where the hardware has it. Parameters are always float32."""
    implementation: Literal["auto", "plain"] = "auto"
    """`auto`: the functions that train fastest on the backend; `plain`: the equations as written, in float32 between
    activations, which differentiate in every mode (`jax.jvp`, `jax.hessian`)."""
    scan_unroll: int | None = None
    """Layers that the compiled loop over a stack contains. 1 compiles fastest; more run faster. None: all layers on a
    CPU, else 1."""

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "d_model", "num_heads", "d_ff", "max_positions"):
            require(getattr(self, name) >= 1, f"model.{name} must be at least 1, but is {getattr(self, name)}.")
        for name in ("num_encoder_layers", "num_decoder_layers"):
            require(getattr(self, name) >= 1, f"model.{name} must be at least 1, but is {getattr(self, name)}.")
        require(
            self.scan_unroll is None or self.scan_unroll >= 1,
            f"model.scan_unroll must be at least 1, but is {self.scan_unroll}.",
        )
        require(
            self.d_model % self.num_heads == 0,
            f"model.d_model must be divisible by model.num_heads, but {self.d_model} is not divisible by "
            f"{self.num_heads}.",
        )
        require(
            self.positions == "learned" or self.d_model % 2 == 0,
            f"Sinusoidal positions need an even model.d_model, but it is {self.d_model}.",
        )
        require(
            self.positions != "halved_t2t" or self.d_model >= 4,
            f"model.positions=halved_t2t needs model.d_model of at least 4, but it is {self.d_model}.",
        )
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            require(0 <= getattr(self, name) < 1, f"model.{name} must be in [0, 1), but is {getattr(self, name)}.")
        require(
            0 <= self.batch_norm_momentum < 1,
            f"model.batch_norm_momentum must be in [0, 1), but is {self.batch_norm_momentum}.",
        )
        require(self.norm_epsilon > 0, f"model.norm_epsilon must be positive, but is {self.norm_epsilon}.")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its learning rate (section 5.3)."""

    name: Literal["adam", "adamw"] = "adam"
    """`adam` is the paper's; `adamw` adds decoupled weight decay."""
    schedule: Literal["paper", "inverse_sqrt", "cosine", "warmup_stable_decay"] = "paper"
    """`paper` is Eq. 3; the others rise linearly to `peak` in `warmup_steps`, then decay."""
    warmup_steps: int = 4000
    """Steps of linear warm-up."""
    peak: float | None = None
    """Highest learning rate, for every schedule but `paper`, whose peak follows from d_model and warmup_steps."""
    scale: float = 1.0
    """Factor on the `paper` schedule."""
    final_fraction: float = 0.0
    """Share of the steps at the end that decay linearly to 0 (`inverse_sqrt`, `warmup_stable_decay`)."""
    b1: float = 0.9
    """Adam's decay of the mean gradient."""
    b2: float = 0.98
    """Adam's decay of the mean squared gradient."""
    epsilon: float = 1e-9
    """Adam's epsilon."""
    weight_decay: float = 0.0
    """Decoupled weight decay of `adamw`, on matrices only."""
    clip_norm: float | None = None
    """Clip the global norm of the gradient to this."""

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 1, f"optimizer.warmup_steps must be at least 1, but is {self.warmup_steps}.")
        require(
            (self.peak is None) == (self.schedule == "paper"),
            "optimizer.schedule=paper computes its own peak (use optimizer.scale to change it); every other schedule "
            f"needs optimizer.peak. Given: schedule={self.schedule}, peak={self.peak}.",
        )
        for name in ("scale", "epsilon", "peak", "clip_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, f"optimizer.{name} must be positive, but is {value}.")
        for name in ("b1", "b2", "final_fraction"):
            require(0 <= getattr(self, name) < 1, f"optimizer.{name} must be in [0, 1), but is {getattr(self, name)}.")
        require(
            self.weight_decay == 0 or self.name == "adamw",
            f"optimizer.weight_decay={self.weight_decay} needs optimizer.name=adamw.",
        )
        require(
            self.schedule != "warmup_stable_decay" or self.final_fraction > 0,
            "optimizer.schedule=warmup_stable_decay needs optimizer.final_fraction > 0: the share of steps that decay.",
        )


@dataclass(frozen=True)
class TrainingConfig:
    """The training run: how much, how large a batch, what to look at on the way, what to keep."""

    steps: int = 100_000
    """Optimizer updates in all (section 5.2)."""
    label_smoothing: float = 0.1
    """Share of the target distribution spread evenly over the vocabulary (section 5.4)."""
    batch_tokens: int = 25_000
    """Padded source tokens, and as many target tokens, a step at the most, over all devices and accumulation steps
    (section 5.1; the paper's 25,000 do not count padding). Empty rows may exceed it by less than one row a piece."""
    accumulation_steps: int = 1
    """Pieces that each device's share of the batch is computed in, to save memory; the update is the same."""
    pack_length: int | None = None
    """Tokens per side of a row, into which several sentence pairs are packed. Attention never crosses a pair. Longer
    pairs are dropped and counted. None is `data.max_length`."""
    log_every: int = 100
    """Steps between two lines of `metrics.jsonl`; there is one at each validation, too."""
    validate_every: int = 1000
    """Steps between two validations. The last step is always validated."""
    save_every: int | None = None
    """Steps between two checkpoints; None saves at each validation. The last step is always saved. The best checkpoint
    is the one of lowest validation loss among those saved at a step that was validated."""
    save_minutes: float | None = None
    """Also save whenever this many minutes have passed since the last save, only to resume from: such a checkpoint is
    not evaluated, averaged or counted by `keep_last`, and the next one replaces it."""
    validation_bleu: bool = False
    """Translate the validation set greedily at each validation and log BLEU."""
    patience: int | None = None
    """Stop after this many validations without a lower validation loss."""
    keep_last: int = 5
    """Checkpoints kept, besides the best one."""

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_tokens",
            "accumulation_steps",
            "log_every",
            "validate_every",
            "save_every",
            "keep_last",
        ):
            value = getattr(self, name)
            require(value is None or value >= 1, f"training.{name} must be at least 1, but is {value}.")
        require(
            self.save_minutes is None or self.save_minutes > 0,
            f"training.save_minutes must be positive, but is {self.save_minutes}.",
        )
        require(
            0 <= self.label_smoothing < 1, f"training.label_smoothing must be in [0, 1), but is {self.label_smoothing}."
        )
        require(
            self.pack_length is None or self.pack_length >= 2,
            f"training.pack_length must be at least 2 (a token and the end), but is {self.pack_length}.",
        )
        require(
            self.patience is None or self.patience >= 1,
            f"training.patience must be at least 1, but is {self.patience}.",
        )


@dataclass(frozen=True)
class SearchConfig:
    """How a translation is searched for (section 6.1)."""

    beam_size: int = 4
    """Hypotheses kept a sentence; 1 is greedy."""
    length_penalty: float = 0.6
    """Exponent alpha of the length penalty; 0 is none."""
    length_penalty_form: Literal["wu", "power"] = "wu"
    """`wu`: ((5 + L) / 6) ** alpha (Wu et al. 2016, the paper's); `power`: L ** alpha."""
    extra_length: int = 50
    """A translation may have this many tokens more than its source."""
    min_length: int = 0
    """Shortest translation in tokens, the end token counted; where the longest allowed is shorter, that is."""
    max_length: int | None = None
    """Longest translation in tokens, the end token counted, whatever extra_length and the model's positions allow."""
    no_repeat_ngram: int = 0
    """No sequence of this many tokens comes twice in a translation; 0 is no such rule."""
    repetition_penalty: float = 1.0
    """Factor on the log-probability of tokens that the translation has already; 1 is none."""
    forbidden: tuple[str, ...] = ()
    """Pieces of the vocabulary that are never generated, behind a space or without one. A word that is one piece may
    still be spelt of several smaller ones."""
    prefix: str = ""
    """Text that every translation begins with; not together with long_input=split."""
    num_best: int = 1
    """Translations of each sentence: the best ones that the search comes across, which may be more than the beam holds
    at once; or as many samples."""
    sample: bool = False
    """Draw translations at random, instead of searching for the most probable."""
    temperature: float = 1.0
    """Of the sampling: below 1 keeps closer to what is most probable."""
    top_k: int = 0
    """Draw each token from this many most probable ones; 0 is all."""
    top_p: float = 1.0
    """Draw each token from the fewest most probable ones that have this probability together."""
    seed: int = 0
    """Of the sampling. A sample is a function of the seed, the sentence's number and the sample's."""
    long_input: Literal["refuse", "split"] = "refuse"
    """What to do with a source longer than the model's positions: stop, or translate it in pieces, cut at sentence
    ends, else between words."""
    batch_tokens: int | None = None
    """Padded source tokens times beam size (or samples) in one batch; None is 2,048 on a CPU, else 8,192."""

    def __post_init__(self) -> None:
        for name in ("beam_size", "extra_length", "max_length", "num_best", "batch_tokens"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"search.{name} must be at least 1, but is {value}.")
        for name in ("length_penalty", "min_length", "no_repeat_ngram", "top_k", "seed"):
            require(getattr(self, name) >= 0, f"search.{name} must not be negative, but is {getattr(self, name)}.")
        require(
            self.max_length is None or self.min_length <= self.max_length,
            f"search.min_length ({self.min_length}) must not exceed search.max_length ({self.max_length}).",
        )
        require(
            self.repetition_penalty >= 1,
            f"search.repetition_penalty must be at least 1, but is {self.repetition_penalty}.",
        )
        require(self.temperature > 0, f"search.temperature must be positive, but is {self.temperature}.")
        require(0 < self.top_p <= 1, f"search.top_p must be in (0, 1], but is {self.top_p}.")
        require(
            self.sample or (self.temperature, self.top_k, self.top_p) == (1.0, 0, 1.0),
            "search.temperature, search.top_k and search.top_p change how translations are drawn: they need "
            "search.sample.",
        )


@dataclass(frozen=True)
class Config:
    """One experiment, whole. The defaults are the paper's base model."""

    run_dir: str = "runs/transformer"
    """Directory of everything the run writes; the same command resumes it."""
    seed: int = 0
    """Seed of initialization, dropout and batch order."""
    average: int = 1
    """The test set is scored on the average of this many last checkpoints (section 6.1: 5 for base, 20 for big)."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache directory, for the next start."""
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed must not be negative, but is {self.seed}.")
        require(
            1 <= self.average <= self.training.keep_last,
            f"average must lie between 1 and training.keep_last ({self.training.keep_last}), but is {self.average}: "
            "only checkpoints that are kept can be averaged.",
        )
        require(
            self.optimizer.schedule != "cosine" or self.optimizer.warmup_steps < self.training.steps,
            f"optimizer.schedule=cosine needs fewer warm-up steps than steps, but optimizer.warmup_steps is "
            f"{self.optimizer.warmup_steps} and training.steps is {self.training.steps}.",
        )
        for name in ("pad_id", "start_id", "end_id"):
            value = getattr(self.tokenizer, name)
            require(
                value < self.model.vocabulary_size,
                f"tokenizer.{name} ({value}) must be below model.vocabulary_size ({self.model.vocabulary_size}).",
            )
        require(
            self.data.max_length <= self.model.max_positions,
            f"data.max_length ({self.data.max_length}) must not exceed model.max_positions "
            f"({self.model.max_positions}).",
        )
