"""Which device and number format the work runs in: decided here and nowhere else."""

import ctypes
import functools
import platform
import time
from contextlib import nullcontext

import torch

STARTED = time.time()  # of this process, for the notebooks' last line


def pick_device() -> torch.device:
    """CUDA where torch sees it, else Apple MPS, else the CPU."""
    _keep_freed_memory()
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


@functools.cache
def _keep_freed_memory() -> None:
    """Asks glibc to keep freed memory in the process: a training step frees and takes the same megabytes again and
    again, and handing them back to the system each time costs a fifth of the time. Elsewhere: no effect."""
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_max = -1, -4
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


def return_memory() -> None:
    """Hands freed memory back to the system after all, where a large piece of work ends. Elsewhere: no effect."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def has_fast_bfloat16(device: torch.device) -> bool:
    """True where bfloat16 products have instructions of their own (on a CPU: AVX-512 BF16 or AMX)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def training_precision(device: torch.device):
    """Context for a training step: bfloat16 autocast where it is fast, else float32."""
    return torch.autocast(device.type, torch.bfloat16) if has_fast_bfloat16(device) else nullcontext()


def describe(device: torch.device) -> str:
    """One line for the notebooks, for example `cpu (x86_64, 2 threads, bfloat16 training), torch 2.15.0`."""
    kind = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    dtype = "bfloat16" if has_fast_bfloat16(device) else "float32"
    return f"{device.type} ({kind}, {torch.get_num_threads()} threads, {dtype} training), torch {torch.__version__}"
