"""Whether two answers are the same, by rules that know when they are sure."""
