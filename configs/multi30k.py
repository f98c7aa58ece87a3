"""Multi30k, English to German: 29,000 image captions (Elliott et al. 2016, "Multi30K: Multilingual English-German
Image Descriptions"), a small model on a CPU."""

from transformer.config import Config, DataConfig, ModelConfig, OptimizerConfig, SearchConfig, TrainingConfig

config = Config(
    run_dir="runs/multi30k",
    average=5,
    data=DataConfig(source_language="en", target_language="de", max_length=100),
    model=ModelConfig(
        vocabulary_size=6000,
        d_model=256,
        num_heads=4,
        d_ff=1024,
        num_encoder_layers=3,
        num_decoder_layers=3,
        dropout=0.3,
        max_positions=256,
    ),
    optimizer=OptimizerConfig(schedule="inverse_sqrt", peak=1.5e-3, warmup_steps=400, final_fraction=0.4),
    training=TrainingConfig(steps=6000, batch_tokens=4096, num_shapes=8, validate_every=500, log_every=100),
    search=SearchConfig(beam_size=5, length_penalty=1.0),
)
