"""Functions of vectors: exponential, logarithm, and the activations' own.

Polynomials are those of Moshier's Cephes library (single precision, error below 2 ulp); the
error function is formula 7.1.26 of Abramowitz and Stegun (error below 1.5e-7).
"""

from numba import njit

from gradevo.engines.simd.vector import (
    absolute,
    exponent,
    fma,
    full,
    if_above,
    larger,
    mantissa,
    nearest,
    power_of_two,
    smaller,
)

inline = njit(forceinline=True, error_model="numpy")


@inline
def exp(x):
    """e to the x; x below -87 counts as -87, above 88 as 88."""
    x = smaller(larger(x, full(-87.0)), full(88.0))
    n = nearest(x * full(1.44269504088896341))
    r = fma(n, full(2.12194440e-4), fma(n, full(-0.693359375), x))
    y = fma(full(1.9875691500e-4), r, full(1.3981999507e-3))
    y = fma(y, r, full(8.3334519073e-3))
    y = fma(y, r, full(4.1665795894e-2))
    y = fma(y, r, full(1.6666665459e-1))
    y = fma(y, r, full(5.0000001201e-1))
    return (fma(y, r * r, r) + full(1.0)) * power_of_two(n)


@inline
def log(x):
    """Natural logarithm; of what is below the smallest normal number, that number's."""
    x = larger(x, full(1.1754944e-38))
    low = full(0.707106781186547524)
    m, e = mantissa(x), exponent(x)
    e = if_above(low, m, e - full(1.0), e)
    m = if_above(low, m, m + m, m) - full(1.0)
    y = fma(full(7.0376836292e-2), m, full(-1.1514610310e-1))
    y = fma(y, m, full(1.1676998740e-1))
    y = fma(y, m, full(-1.2420140846e-1))
    y = fma(y, m, full(1.4249322787e-1))
    y = fma(y, m, full(-1.6668057665e-1))
    y = fma(y, m, full(2.0000714765e-1))
    y = fma(y, m, full(-2.4999993993e-1))
    y = fma(y, m, full(3.3333331174e-1))
    z = m * m
    y = fma(y * m, z, e * full(-2.12194440e-4))
    y = fma(z, full(-0.5), y)
    return fma(e, full(0.693359375), m + y) + (x - x)  # not a number stays so


@inline
def sigmoid(x):
    return full(1.0) / (full(1.0) + exp(full(0.0) - x))


@inline
def tanh(x):
    """By the exponential, and near zero by a polynomial, where the former cancels."""
    size = absolute(x)
    far = full(1.0) - full(2.0) / (exp(size + size) + full(1.0))
    far = if_above(full(0.0), x, full(0.0) - far, far)
    z = x * x
    y = fma(full(-5.70498872745e-3), z, full(2.06390887954e-2))
    y = fma(y, z, full(-5.37397155531e-2))
    y = fma(y, z, full(1.33314422036e-1))
    y = fma(y, z, full(-3.33332819422e-1))
    near = fma(y * z, x, x)
    return if_above(size, full(0.625), far, near)


@inline
def normal(x):
    """The normal distribution's share below x, and exp(-x^2 / 2)."""
    bell = exp(full(-0.5) * x * x)
    t = full(1.0) / fma(full(0.3275911 * 0.70710678), absolute(x), full(1.0))
    y = fma(full(1.061405429), t, full(-1.453152027))
    y = fma(y, t, full(1.421413741))
    y = fma(y, t, full(-0.284496736))
    y = fma(y, t, full(0.254829592))
    tail = full(0.5) * y * t * bell
    return if_above(full(0.0), x, tail, full(1.0) - tail), bell
