"""Selective unlearning on MNIST and Colored MNIST.

Data flows one way, and the rooms stand in that order; each imports only from those before it:
files, device, parallel, sizes -> data -> models -> unlearning -> evaluation -> studies -> report -> run.
"""
