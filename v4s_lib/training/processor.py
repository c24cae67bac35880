"""What this processor is quick at: bf16 or not, a compiled model or not, which attention."""

import contextlib
import shutil
from collections.abc import Iterator

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch.nn.attention import SDPBackend, sdpa_kernel

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16")  # the last is ARM's


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is quicker there than float32: on a GPU, and on a CPU that has instructions for it.

    Without them it is emulated: an AVX2 processor multiplies 1024x1024 matrices at 41 GFLOP/s in float32 and at 0.5 in
    bf16 (measured once, on one core; not stored).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return True
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return any(capabilities.get(name) for name in BF16_INSTRUCTIONS)


def precision(wanted: str) -> str:
    """The mixed precision that is ``wanted``, but none in place of a bf16 that would be emulated."""
    return "no" if wanted == "bf16" and not fast_bf16(PartialState().device) else wanted


def make_accelerator(mixed_precision: str, **options: object) -> Accelerator:
    """An accelerator of that precision, also where this process has had one of another: accelerate refuses that."""
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed_precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=mixed_precision, **options)


def can_compile(accelerator: Accelerator) -> bool:
    """Whether torch.compile has what it needs: a GPU, or a C++ compiler."""
    return accelerator.device.type == "cuda" or shutil.which("g++") is not None


@contextlib.contextmanager
def fast_attention(accelerator: Accelerator) -> Iterator[None]:
    """On a CPU attention written out and compiled trains faster than the fused kernel: 1.4 times (not stored)."""
    if accelerator.device.type != "cpu" or accelerator.mixed_precision != "bf16":
        yield
        return
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    with sdpa_kernel(SDPBackend.MATH):
        yield
