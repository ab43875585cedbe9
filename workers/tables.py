"""The networks, as tables: GoogLeNet as BVLC Caffe trains it, a wider one, two smaller ones of the same anatomy, and a
perceptron.

Source: Szegedy et al. 2014, Table 1 and section 5; BVLC/caffe models/bvlc_googlenet. The other tables, and all that
is said of them below, are ours.
"""

from __future__ import annotations

from dataclasses import replace

from workers.inception import Dense, Head, Mixed, Normalise, Pool, Row, Standardise, Stem, Table

_GOOGLENET = (
    Stem("conv1", (("7x7_s2", 64, 7, 2),)),
    Pool("pool1"),
    Normalise("norm1"),
    Stem("conv2", (("3x3_reduce", 64, 1, 1), ("3x3", 192, 3, 1))),
    Normalise("norm2"),
    Pool("pool2"),
    Mixed("inception_3a", 64, 96, 128, 16, 32, 32),
    Mixed("inception_3b", 128, 128, 192, 32, 96, 64),
    Pool("pool3"),
    Mixed("inception_4a", 192, 96, 208, 16, 48, 64),
    Head("loss1", window=5, stride=3, convolution=128, hidden=1024, dropout=0.7),
    Mixed("inception_4b", 160, 112, 224, 24, 64, 64),
    Mixed("inception_4c", 128, 128, 256, 24, 64, 64),
    Mixed("inception_4d", 112, 144, 288, 32, 64, 64),
    Head("loss2", window=5, stride=3, convolution=128, hidden=1024, dropout=0.7),
    Mixed("inception_4e", 256, 160, 320, 32, 128, 128),
    Pool("pool4"),
    Mixed("inception_5a", 256, 160, 320, 32, 128, 128),
    Mixed("inception_5b", 384, 192, 384, 48, 128, 128),
)
GOOGLENET = Table(_GOOGLENET, dropout=0.4, gain=1.0, bias=0.2, classifier_gain=1.0, centred=False)


# One model of the paper's ensemble was wider; what of it, and by how much, was not published. Here every path of every
# Inception module is a quarter wider (in whole vectors of 8), and nothing else: the stem, where planes are largest,
# costs most and holds fewest parameters, and heads that stay as they are keep the auxiliary losses comparable.
def _wider(row: Row) -> Row:
    if not isinstance(row, Mixed):
        return row
    widths = (row.one, row.three_reduce, row.three, row.five_reduce, row.five, row.pool)
    return Mixed(row.name, *(-(-width * 5 // 4 // 8) * 8 for width in widths))


GOOGLENET_WIDE = replace(GOOGLENET, rows=tuple(_wider(row) for row in _GOOGLENET))

# For 32x32 and thereabouts. Heads are scaled to the network: hidden layers 16 times smaller, and less dropout, since
# 0.7 of 64 units leaves too few. Biases start at 0, so the gain alone must carry the signal through the layers.
_INCEPTION_SMALL = (
    Stem("conv1", (("3x3", 64, 3, 1),)),
    Pool("pool1"),
    Mixed("inception_3a", 32, 32, 64, 8, 16, 16),
    Mixed("inception_3b", 64, 64, 96, 16, 32, 32),
    Head("loss1", window=4, stride=4, convolution=32, hidden=64, dropout=0.4),
    Pool("pool3"),
    Mixed("inception_4a", 96, 48, 104, 8, 24, 32),
    Head("loss2", window=4, stride=4, convolution=32, hidden=64, dropout=0.4),
    Mixed("inception_4b", 80, 56, 112, 12, 32, 32),
    Pool("pool4"),
)
INCEPTION_SMALL = Table(_INCEPTION_SMALL, dropout=0.4, gain=2.0, bias=0.0, classifier_gain=0.2, centred=True)

# For experiments on two cores with 16x16 to 32x32: shallow, few channels while the planes are large, multiples of 8
# (vector lanes), and little dropout, since a network of this size underfits long before it overfits. It is standardised
# between its modules: with 32 workers on digits that saves about half the updates (a tenth more error without, at the
# same number of updates), which a network for staleness experiments should not spend on being badly conditioned.
_INCEPTION_MINI = (
    Stem("conv1", (("3x3", 24, 3, 1),)),
    Standardise("norm1"),
    Pool("pool1"),
    Mixed("inception_3a", 16, 16, 32, 8, 16, 16),
    Standardise("norm2"),
    Head("loss1", window=4, stride=4, convolution=16, hidden=32, dropout=0.2),
    Pool("pool3"),
    Mixed("inception_4a", 32, 24, 64, 8, 24, 24),
    Standardise("norm3"),
    Head("loss2", window=4, stride=4, convolution=16, hidden=32, dropout=0.2),
    Mixed("inception_4b", 48, 32, 88, 16, 32, 32),
    Standardise("norm4"),
)
INCEPTION_MINI = Table(_INCEPTION_MINI, dropout=0.2, gain=2.0, bias=0.0, classifier_gain=0.2, centred=True)

# For the laboratory: a thousand gradients a second on one core, and a loss that staleness does to what the theory says.
# Not an Inception network at all: one hidden layer, as in the experiments that the literature on staleness began with.
PERCEPTRON = Table((Dense("fc1", 64),), dropout=0.0, gain=2.0, bias=0.0, classifier_gain=1.0, centred=False)
