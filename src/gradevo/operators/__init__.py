"""Operators on stacked populations: selection, alignment, crossover and mutation."""
