"""What remembers: parameter layout, update rules, and the three state machines (shard, ledger, averager) with their
    journal.

Nothing here does I/O or reads a clock, except `ps.wire`, which holds all of it. Nothing here imports Ray, workers or
cluster.
"""
