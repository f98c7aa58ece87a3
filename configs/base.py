"""The paper's base model, with every default, for your own data.

Source: Vaswani et al. 2017, arXiv 1706.03762, Table 3 (base) and sections 5 and 6.1.
Command: python train.py --config base --data.train train.en train.de --data.validation val.en val.de
    --data.test test.en test.de
Score: depends on the data. The recipe for the paper's data is wmt14_base.py.
Time: depends on the machine. For the paper's time, see wmt14_base.py.
"""

from transformer.config import Config

config = Config(run_dir="runs/base")
