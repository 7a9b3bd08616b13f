"""What the unit tests and the numerics share: one fixed hypothesis profile, one thread for many small tensors."""

import torch
from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("fixed")
torch.set_num_threads(1)
