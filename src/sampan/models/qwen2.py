"""Qwen2 and Qwen2.5 (arXiv:2412.15115), and with them QwQ and the R1 distills of Qwen.

Llama's decoder with a bias on q, k and v, which `ModelConfig.qkv_bias` states.
"""

from sampan.models.llama import build, forward

__all__ = ["build", "forward"]
