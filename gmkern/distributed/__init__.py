"""Many processes on ``torch.distributed``: sharded references, samples split by id. See docs/scaling.md.

Every function is a collective: each rank of the group calls it, in the same order, or the others wait until the group's
timeout and raise. What one rank raises is told to all. Start the processes with ``torchrun`` and call
``torch.distributed.init_process_group`` first.
"""

from gmkern.distributed.evaluate import evaluate
from gmkern.distributed.kernel_sum import kernel_sum, log_kernel_sum
from gmkern.distributed.neighbors import count_within, knn
from gmkern.distributed.sampling import generate, sample, share, simulate

__all__ = ["count_within", "evaluate", "generate", "kernel_sum", "knn", "log_kernel_sum", "sample", "share", "simulate"]
