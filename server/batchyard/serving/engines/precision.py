"""What the engines of a model may compute in, and how far a reduced precision may be off.

The certificate's bound was made for fp32. An engine in bf16 cannot keep it and has one of its own, so it serves only
models whose owner asks for it.
"""

from __future__ import annotations

from typing import Literal

Precision = Literal["fp32", "bf16"]
"""fp32: engines in fp32 alone. bf16: those in bf16, too; the fastest that is within its bound serves."""

BF16_ERROR = 2.0**-5
"""Largest error of an output in bf16, as a share of the largest absolute output. A number of 8 significant bits is off
by up to 2^-9 of itself, and every layer adds as much again."""
ERROR_SHARES: dict[Precision, float] = {"fp32": 0.0, "bf16": BF16_ERROR}
"""Largest error as a share of the largest absolute output, where the certificate's own bound is tighter."""
