"""From (weight, sensitivity) to a quantized tensor: k-means, uniform, ECSQ."""
