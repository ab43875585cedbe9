"""Nodes: the machines of a Ray cluster, brought up, looked at and shut down by `distbelief cluster`."""
