"""In which numbers gradients go back through frozen weights."""

import torch


def quick_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it faster than float32: with AMX, and AMD's with AVX-512 BF16.
    Intel's `vdpbf16ps` is slower than float32's products (0.19 to 0.29 TFLOPS on two cores of a Sapphire
    Rapids whose AMX is hidden), and without any of these PyTorch has bfloat16 by way of float32."""
    found = torch.cpu.get_capabilities()
    own = found.get("avx512_bf16") and not str(found.get("cpu_name")).startswith("Intel")
    return torch.bfloat16 if found.get("amx_bf16") or own else torch.float32
