"""Evaluation and training folders as one page to look at, and as tables to reckon with."""
