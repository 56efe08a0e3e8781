"""Orthogonal matching pursuit (Pati et al. 1993).

Pick the atom with the largest |<r, d>|; least squares on all picked atoms at every step, r <- z - its fit.
"""

from itda.core.pursuit.rules.base import PursuitRules, magnitude
from itda.core.pursuit.subtraction import LeastSquares

OMP = PursuitRules(score=magnitude, subtract=LeastSquares)
