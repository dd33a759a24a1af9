"""Analysis of quantizers: operating points, rate-distortion curves, target search, bounds and sweeps."""
