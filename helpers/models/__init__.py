"""The classifier, its training, and ensembles of models that differ in their seed."""
