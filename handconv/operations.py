"""The names of the ops in `torch.ops.handconv`: a trio for each algorithm, an op for each slot."""

# The value of `algorithm=`, and what the first name of its trio is.
TRIOS = {
    "auto": "conv2d",
    "direct": "conv2d_direct",
    "im2col": "conv2d_im2col",
    "winograd": "conv2d_winograd",
}

# What an op fills, and what its name ends in after that of its trio.
SLOT_SUFFIXES = {"forward": "", "input_grad": "_input_grad", "weight_grad": "_weight_grad"}
