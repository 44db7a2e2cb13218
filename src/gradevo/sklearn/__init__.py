"""Estimators of scikit-learn: the algorithms for tables, in pipelines and searches.

`from gradevo.sklearn import GADAMClassifier`. See docs/sklearn.md.
"""

from gradevo.sklearn.adaswarm import AdaSwarmClassifier
from gradevo.sklearn.gadam import GADAMClassifier, GADAMRegressor
from gradevo.sklearn.gemonn import GEMONNClassifier

__all__ = ["AdaSwarmClassifier", "GADAMClassifier", "GADAMRegressor", "GEMONNClassifier"]
