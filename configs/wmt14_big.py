"""WMT14, English to German, the paper's big model: its full recipe, not run here.

Source: Vaswani et al. 2017, arXiv 1706.03762: Table 3 (big), sections 5 and 6.1.
Data: as in wmt14_base.py.
Command: python train.py --config wmt14_big
    or on local files, with the same options as in wmt14_base.py.
Score: not run here. The paper reports 28.4 BLEU; see wmt14_base.py for what this compares with.
Time: not run here. The paper's model took 3.5 days on 8 NVIDIA P100 GPUs, 1.0 second a step.
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
    # The 10 minutes between two of the paper's checkpoints are 600 steps.
    training=dataclasses.replace(base.training, steps=300_000, validate_every=600, keep_last=20),
)
