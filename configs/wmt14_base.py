"""WMT14, English to German, the paper's base model.

This is the full recipe of the paper. It has not been run here.

Source: Vaswani et al. 2017, arXiv 1706.03762, Table 3 (base) and sections 5 and 6.1.
Data: wmt/wmt14 (de-en) on the Hugging Face hub, with 4,508,785 training pairs, newstest2013 for validation and
    newstest2014 for testing.
Command: python train.py --config wmt14_base
    or on local files: python train.py --config wmt14_base --data.corpus files --data.corpus-config None
    --data.train train.en train.de --data.validation newstest2013.en newstest2013.de
    --data.test newstest2014.en newstest2014.de
Score: not run here. The paper reports 27.3 BLEU, but sacreBLEU would score the same translations differently. The
    authors' script get_ende_bleu.sh tokenizes and splits compounds. For another base model of theirs, the script
    reported 29.02 and sacreBLEU 27.52 (tensorflow/tensor2tensor, issue 317).
Time: not run here. The paper reports 12 hours on 8 NVIDIA P100 GPUs, at 0.4 seconds per step.
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
        max_length=256,  # the paper states no limit
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
        # The paper averages checkpoints written every 10 minutes, which is 1,389 steps. 1,250 divides the number of
        # steps.
        validate_every=1250,
        keep_last=5,
    ),
    search=SearchConfig(beam_size=4, length_penalty=0.6, extra_length=50),
)
