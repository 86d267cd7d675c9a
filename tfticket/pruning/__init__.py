"""Masks on a model: the wrapper `Prune`, `prune`, `strip`, and whatever cuts masks.

For pruning a model of yours, while it trains or at once. `engine` cuts the masks for
`gradual`, `one_shot` and tickets; `evidence` gathers what criteria ask for; `targets`
plans channels by FLOPs; `thresholds` is Han et al.'s way; `dynamic` drops and grows.
"""
