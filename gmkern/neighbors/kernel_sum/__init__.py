from gmkern.neighbors.kernel_sum.api import KERNELS, kernel_sum, log_kernel_sum

__all__ = ["KERNELS", "kernel_sum", "log_kernel_sum"]
