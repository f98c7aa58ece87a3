"""WMT14, English to German, the paper's base model: its full recipe, not run here.

Source: Vaswani et al. 2017, arXiv 1706.03762: Table 3 (base), sections 5 and 6.1.
Data: the hub's wmt/wmt14, de-en: 4,508,785 pairs for training, newstest2013 for validation, newstest2014 as the test.
Command: python train.py --config wmt14_base
    or on local files: python train.py --config wmt14_base --data.corpus files --data.corpus-config None
    --data.train train.en train.de --data.validation newstest2013.en newstest2013.de
    --data.test newstest2014.en newstest2014.de
Score: not run here. The paper reports 27.3 BLEU, which sacreBLEU would not give the same translations: the authors'
    script get_ende_bleu.sh tokenizes and splits compounds. It gave another base model of theirs 29.02, sacreBLEU 27.52
    (tensorflow/tensor2tensor, issue 317).
Time: not run here. The paper's model took 12 hours on 8 NVIDIA P100 GPUs, 0.4 seconds a step.
"""

from transformer.config import Config, DataConfig, ModelConfig, OptimizerConfig, SearchConfig, TrainingConfig

config = Config(
    run_dir="runs/wmt14_base",
    average=5,
    data=DataConfig(
        corpus="wmt/wmt14",
        corpus_config="de-en",
        source_language="en",
        target_language="de",
        train=("train",),
        validation=("validation",),
        test=("test",),
        drop_empty=True,
        max_length=256,  # the paper names no limit
    ),
    model=ModelConfig(
        vocabulary_size=37_000,
        d_model=512,
        num_heads=8,
        d_ff=2048,
        num_encoder_layers=6,
        num_decoder_layers=6,
        dropout=0.1,
    ),
    optimizer=OptimizerConfig(schedule="paper", warmup_steps=4000, b1=0.9, b2=0.98, epsilon=1e-9),
    training=TrainingConfig(
        steps=100_000,
        label_smoothing=0.1,
        batch_tokens=25_000,
        # The paper averages checkpoints written every 10 minutes, or 1,389 steps. 1,250 divides the number of steps.
        validate_every=1250,
        keep_last=5,
    ),
    search=SearchConfig(beam_size=4, length_penalty=0.6, extra_length=50),
)
