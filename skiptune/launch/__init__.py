"""Placing workers: one small module per executor, behind one interface.

An executor starts `skiptune worker NAME` so many times, tells how many of them wait and run, and
ends them. Placement is its own: we ask Slurm, Ray or Kubernetes, and are the executor on one
machine. Workers need the database and the study's name alone, so nothing is shipped to them.
"""
