"""Arguments of a swarm's criterion that nothing reads beside the others."""

from gradevo.fields import unused
from gradevo.swarm.dynamics import EMPSO
from gradevo.swarm.estimators import OF_SWARM

UNUSED = (
    unused(
        "iterations=0 and an estimator of points",
        lambda config: not config.iterations and config.estimator not in OF_SWARM,
        dynamics=EMPSO(),
    ),
    unused(
        f"an estimator other than {' and '.join(OF_SWARM)}",
        lambda config: config.estimator not in OF_SWARM,
        "eta",
    ),
    unused('start="range"', lambda config: config.start == "range", "spread"),
)
GIVEN = unused(
    "a SwarmLoss, which has its own", lambda config: True,
    "scope", "particles", "iterations", "dynamics", "estimator", "start", "spread", "bounds",
    "saturating", "eta",
)  # fmt: skip
