"""Where a run runs, and by which clock. `cluster.live` is the only importer of Ray."""
