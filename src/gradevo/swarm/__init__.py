"""Particle swarms: their dynamics, minimisation, a gradient from a swarm, and SwarmLoss."""

from gradevo.swarm.dynamics import EMPSO, PSO, REMPSO, Dynamics, MomentumPSO, Swarm
from gradevo.swarm.emulate import Emulation, emulate
from gradevo.swarm.estimators import ESTIMATORS, Cloud
from gradevo.swarm.gradient import Estimate, gradient
from gradevo.swarm.loss import SwarmLoss
from gradevo.swarm.minimize import Minimum, minimize

__all__ = [
    "EMPSO",
    "ESTIMATORS",
    "PSO",
    "REMPSO",
    "Cloud",
    "Dynamics",
    "Emulation",
    "Estimate",
    "Minimum",
    "MomentumPSO",
    "Swarm",
    "SwarmLoss",
    "emulate",
    "gradient",
    "minimize",
]
