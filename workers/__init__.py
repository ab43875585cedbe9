"""What computes: the worker programs, the gradient as a pure function of (weights, lease), the Inception models and
the data sets.
"""
