"""Matching pursuit with a refit: the atoms of `mp`, and at the end the coefficients of least squares on them."""

from itda.core.pursuit.rules.base import PursuitRules, magnitude
from itda.core.pursuit.subtraction import Projection

MP_REFIT = PursuitRules(score=magnitude, subtract=Projection, refit=True)
