"""Benches: our speed beside that of the rivals, measured in the same minute on the same machine. One file each."""
