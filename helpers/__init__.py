"""Selective unlearning on MNIST and Colored MNIST.

Read in this order, each module imports only from those before it:
files, device -> datasets -> split -> cnn -> training -> unlearning -> ensembles -> evaluation -> plots,
and studies (Optuna) and run (the notebooks from the command line) at the end.
"""
