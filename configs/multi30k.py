"""Multi30k, English to German, with a small model on a CPU.

Source: Elliott et al. 2016, "Multi30K: Multilingual English-German Image Descriptions". 29,000 image captions for
    training, without the images.
Command: python train.py --config multi30k --data.train train.en.gz train.de.gz
    --data.validation val.en.gz val.de.gz --data.test test_2016_flickr.en.gz test_2016_flickr.de.gz
Score: 40.22 cased BLEU on test_2016_flickr (2026-11-28, nrefs:1|bs:1000|seed:12345|case:mixed|eff:no|tok:13a|
    smooth:exp|version:2.6.0, with averaging over 5 checkpoints and alpha 1.0), computed in float32 on two AMD Zen 3
    cores.
Time: 37 minutes 45 seconds on two AMD Zen 4 cores in bfloat16, with an empty compilation cache (2026-11-23).
    The time was measured with 5,300 steps and rows of 32 tokens. The 5,500 steps with rows of 40 process the same
    number of tokens: measured alternately, a token takes 0.996 of the time. They compile one shape instead of four.
    Two Zen 3 cores, which lack bfloat16, process 12,500 tokens per second, and so train for 53 minutes.
Trials: docs/experiments.md.
"""

from transformer.config import Config, DataConfig, ModelConfig, OptimizerConfig, SearchConfig, TrainingConfig

config = Config(
    run_dir="runs/multi30k",
    average=5,
    data=DataConfig(source_language="en", target_language="de", max_length=100),
    model=ModelConfig(
        vocabulary_size=10_000,
        d_model=128,
        num_heads=4,
        d_ff=256,
        num_encoder_layers=4,
        num_decoder_layers=4,
        norm_position="pre",
        dropout=0.3,
        max_positions=256,
    ),
    optimizer=OptimizerConfig(schedule="inverse_sqrt", peak=4e-3, warmup_steps=1000, final_fraction=0.4),
    # Rows of 40 tokens drop 44 of the 29,000 pairs. Rows of 64 drop none and take 7 % longer per token. Other text
    # usually has longer sentences, so give it --training.pack-length 100.
    training=TrainingConfig(steps=5500, batch_tokens=4096, pack_length=40, validate_every=500),
    search=SearchConfig(beam_size=5, length_penalty=1.0),
)
