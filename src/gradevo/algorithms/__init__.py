"""One algorithm, one file: docstring with the paper, config, state, `init`, `step`."""
