"""The matrices in a tree of parameters: rules for their rows and columns, stacks, fused weights."""
