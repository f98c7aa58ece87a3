"""WMT14, English to German, the paper's big model.

This is the full recipe of the paper. It has not been run here.

Source: Vaswani et al. 2017, arXiv 1706.03762, Table 3 (big) and sections 5 and 6.1.
Data: the same as in wmt14_base.py.
Command: python train.py --config wmt14_big
    or on local files, with the options that wmt14_base.py shows.
Score: not run here. The paper reports 28.4 BLEU; wmt14_base.py explains why sacreBLEU is not comparable with it.
Time: not run here. The paper reports 3.5 days on 8 NVIDIA P100 GPUs, at 1.0 second per step.
"""

import dataclasses
from pathlib import Path

from transformer.config_files import load_config

base = load_config(str(Path(__file__).with_name("wmt14_base.py")))
config = dataclasses.replace(
    base,
    run_dir="runs/wmt14_big",
    average=20,
    model=dataclasses.replace(base.model, d_model=1024, num_heads=16, d_ff=4096, dropout=0.3),
    # The paper writes a checkpoint every 10 minutes, which is 600 steps.
    training=dataclasses.replace(base.training, steps=300_000, validate_every=600, keep_last=20),
)
