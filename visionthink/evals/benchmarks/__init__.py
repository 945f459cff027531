"""The twelve benchmarks of the paper: what is asked, what is counted, what to beware of."""
