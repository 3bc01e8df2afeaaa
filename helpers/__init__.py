"""Selective unlearning on MNIST, Colored MNIST and FashionMNIST.

Data flows one way, and the rooms stand in that order; each imports only from those before it:
files, device, parallel, sizes -> data -> models -> unlearning -> evaluation -> studies -> report -> run.
"""
