"""The staleness laboratory: grids of simulated runs, what each came to, and a page about them."""
