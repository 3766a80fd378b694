"""torch's CPU normal draw (x86 with AVX2, float32) in numpy, bit for bit: an executable
description.

Values come from MT19937, seeded with the low 32 bits of the seed. Draws of fewer than 16 values are
made one by one in float64; longer ones in float32 blocks of 16, with Cephes' approximations of log,
sin and cos and fused multiply-adds.
"""

from __future__ import annotations

import math

import numpy as np

F = np.float32
LOG = [7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
       2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1]  # fmt: skip
SIN = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]
COS = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]
QUARTER_PI = [0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8]


class Generator:
    """MT19937. It stores the second value of the last float64 pair for the next short draw."""

    def __init__(self, seed: int) -> None:
        self.twister, self.kept = np.random.RandomState(seed & 0xFFFFFFFF), None

    def bits(self, n: int) -> np.ndarray:
        return self.twister.randint(0, 2**32, size=n, dtype=np.uint32)

    def randn(self, n: int) -> np.ndarray:
        if n < 16:
            return np.array([self.one() for _ in range(n)], dtype=F)
        u = self.uniform(n)
        out = u.copy()
        for start in range(0, n - 15, 16):
            out[start : start + 16] = block(u[start : start + 16])
        if n % 16:
            out[n - 16 :] = block(self.uniform(16))  # sixteen fresh values replace the last sixteen
        return out

    def uniform(self, n: int) -> np.ndarray:
        """The low 24 bits of each output, scaled to [0, 1)."""
        return (self.bits(n) & 0xFFFFFF).astype(F) * F(2.0**-24)

    def one(self) -> float:
        """Box-Muller in float64, with an output's low 53 bits; the first 32-bit draw is the high
        half."""
        if self.kept is not None:
            value, self.kept = self.kept, None
            return value
        a, b = (((int(hi) << 32 | int(lo)) & (2**53 - 1)) * 2.0**-53 for hi, lo in (self.bits(2), self.bits(2)))
        radius, angle = math.sqrt(-2.0 * math.log1p(-b)), 2.0 * math.pi * a
        self.kept = radius * math.sin(angle)
        return radius * math.cos(angle)


def block(u: np.ndarray) -> np.ndarray:
    """16 uniforms to 16 normals: radii from the first eight, angles from the others; eight cosines,
    eight sines."""
    radius = np.sqrt(F(-2) * log(F(1) - u[:8]))
    sine, cosine = sin_cos(F(2 * math.pi) * u[8:])
    return np.concatenate([radius * cosine, radius * sine])


def fma(a: np.ndarray, b: np.ndarray | np.float32, c: np.ndarray | np.float32) -> np.ndarray:
    """a·b + c with one rounding (nearly: the multiplication is exact in float64)."""
    return (np.float64(a) * np.float64(b) + np.float64(c)).astype(F)


def polynomial(coefficients: list[float], x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        y = fma(y, x, F(c))
    return y


def log(x: np.ndarray) -> np.ndarray:
    """Natural logarithm of normal positive floats."""
    bits = x.view(np.int32)
    e = ((bits >> 23) - 127).astype(F) + F(1)
    m = ((bits & ~0x7F800000) | 0x3F000000).astype(np.int32).view(F)  # in [0.5, 1)
    low = m < F(math.sqrt(0.5))
    x = (m - F(1)) + np.where(low, m, F(0))
    e = e - np.where(low, F(1), F(0))
    z = x * x
    y = fma(polynomial(LOG, x) * x, z, e * F(-2.12194440e-4))
    y = fma(-z, F(0.5), y)
    return fma(e, F(0.693359375), x + y)


def sin_cos(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of non-negative angles."""
    octant = ((x * F(4 / math.pi)).astype(np.int32) + 1) & ~1
    for part in QUARTER_PI:
        x = fma(octant.astype(F), F(-part), x)
    z = x * x
    cosine = fma(polynomial(COS, z) * z, z, -(z * F(0.5))) + F(1)
    sine = fma(polynomial(SIN, z) * z, x, x)
    straight = (octant & 2) == 0
    s, c = np.where(straight, sine, cosine), np.where(straight, cosine, sine)
    return np.where(octant & 4, -s, s), np.where((octant - 2) & 4, c, -c)
