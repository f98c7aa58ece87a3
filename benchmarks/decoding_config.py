"""The model of `benchmarks/decoding.py`, size S with MarianMTModel's settings.

Source: the settings of OPUS-MT's models, and the sizes of S in benchmarks/training.py.
Command: python train.py --config benchmarks/decoding_config.py --data.train train.en train.de
    --data.validation val.en val.de
Score and time: not measured. Training only serves to make translations of realistic lengths.
"""

from transformer.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig

config = Config(
    run_dir="runs/decoding",
    data=DataConfig(max_length=100),
    tokenizer=TokenizerConfig(pad_id=0, start_id=0, end_id=2),
    model=ModelConfig(
        vocabulary_size=8000,
        d_model=256,
        num_heads=4,
        d_ff=1024,
        num_encoder_layers=3,
        num_decoder_layers=3,
        activation="swish",
        norm_epsilon=1e-5,
        positions="halved",
        attention_bias=True,
        final_logits_bias=True,
        max_positions=256,
        dropout=0.2,
    ),
    optimizer=OptimizerConfig(schedule="inverse_sqrt", peak=1.5e-3, warmup_steps=400, final_fraction=0.4),
    training=TrainingConfig(steps=2000, batch_tokens=4096, validate_every=500),
)
