"""`gradevo compare`: methods side by side."""

from gradevo.cli.options import DEFAULTS, Options, Whole, load, network
from gradevo.cli.printing import print_json, print_summary, say_where
from gradevo.cli.watching import watched, words


def compare(
    data: str,
    /,
    *,
    methods: str = "gadam,adam,adam-best-of,adam-ensemble",
    seeds: Whole = 5,
    options: Options = DEFAULTS,
) -> None:
    """Run methods side by side, with paired statistics; all but GEMONN at equal cost.

    Parameters
    ----------
    data
        As for `train`.
    methods
        Names separated by commas; p-values compare each with the first.
    seeds
        Splits and runs a method.
    """
    from gradevo.compare import compare as compare_methods
    from gradevo.compare import summary

    if seeds < 1:
        raise ValueError(f"seeds: must be at least 1, got {seeds}")
    with watched(options, words):
        outcomes = compare_methods(
            methods.split(","),
            load(data, options),
            network(options),
            seeds=seeds,
            settings=options.settings(),
            loss=options.loss,
            folder=options.out,
            engine=options.engine,
            device=options.device,
            force=options.force,
            quiet=options.quiet,
        )
    rows = summary(outcomes)
    if options.json:
        runs = [vars(outcome) for outcome in outcomes]
        print_json({"summary": rows, "runs": runs})
    else:
        print_summary(outcomes[0].dataset, rows)
        say_where(options.out)
