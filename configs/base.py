"""The paper's base model for data of your own: every default.

Source: Vaswani et al. 2017, arXiv 1706.03762: Table 3 (base), sections 5 and 6.1.
Command: python train.py --config base --data.train train.en train.de --data.validation val.en val.de
    --data.test test.en test.de
Score: depends on the data. wmt14_base.py is the recipe for the paper's.
Time: depends on the machine; see wmt14_base.py for the paper's.
"""

from transformer.config import Config

config = Config(run_dir="runs/base")
