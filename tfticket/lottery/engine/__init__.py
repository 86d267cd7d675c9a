"""How an experiment runs: its parts, one network trained again and again, checkpoints.

For the three experiments. `worker` does what is missing of a `chain`, `branches` says
where each control starts, `trainer` trains, `runners` says where it runs.
"""
