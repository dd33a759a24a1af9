"""Keys of the bins of w and of the cells of the (h, w) grid."""

MARGINAL_SHIFT = 14  # bits dropped from a float32 for the bins of the marginal: 512 per octave, whatever the range
JOINT_SHIFT = 18  # bits dropped for the joint grid: 32 bins per octave
ROW_SHIFT = 22  # exponent and first mantissa bit of h: two rows per octave
ROWS = 1 << 10  # rows of h, the upper half of them negative
ROW_OF_ONE = 0x3F800000 >> ROW_SHIFT  # row of h = 1
ROW_KEYS = 1 << 33  # keys of one row
ZERO_KEY = 1 << 32  # key of exact zero within its row
LEAST_MASS = 1e-200  # added to each h: a bin with h = 0 keeps the mean of its weights; negligible for any other h
