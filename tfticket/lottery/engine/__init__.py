"""Runs of an experiment: trainings, checkpoints, locks and folders."""
